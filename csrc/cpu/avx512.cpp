#define SRU_ASR_VARIANT avx512
#include "../kernels.h"
#include "ctc_kernel.h"
#include "recurrence_kernel.h"

namespace sru_asr {
const Kernels kAvx512Kernels = {"avx512", avx512::run<avx512::ForwardRun, Forward>, avx512::run<avx512::BackwardRun, Backward>, avx512::ctc};
}  // namespace sru_asr
