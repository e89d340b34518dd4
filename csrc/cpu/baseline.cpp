#define SRU_ASR_VARIANT baseline
#include "../kernels.h"
#include "ctc_kernel.h"
#include "recurrence_kernel.h"

namespace sru_asr {
const Kernels kBaselineKernels = {"baseline", baseline::run<baseline::ForwardRun, Forward>, baseline::run<baseline::BackwardRun, Backward>, baseline::ctc};
}  // namespace sru_asr
