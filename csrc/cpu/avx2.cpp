#define SRU_ASR_VARIANT avx2
#include "kernel.h"

namespace sru_asr {
const Kernels kAvx2Kernels = {"avx2", avx2::run<avx2::ForwardRun, Forward>, avx2::run<avx2::BackwardRun, Backward>};
}  // namespace sru_asr
