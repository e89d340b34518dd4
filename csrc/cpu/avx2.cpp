#define SRU_ASR_VARIANT avx2
#include "../kernels.h"
#include "ctc_kernel.h"
#include "recurrence_kernel.h"

namespace sru_asr {
const Kernels kAvx2Kernels = {"avx2", avx2::run<avx2::ForwardRun, Forward>, avx2::run<avx2::BackwardRun, Backward>, avx2::ctc};
}  // namespace sru_asr
