#define SRU_ASR_VARIANT baseline
#include "kernel.h"

namespace sru_asr {
const Kernels kBaselineKernels = {"baseline", baseline::run<baseline::ForwardRun, Forward>, baseline::run<baseline::BackwardRun, Backward>};
}  // namespace sru_asr
