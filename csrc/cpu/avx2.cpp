#define SRU_ASR_VARIANT avx2
#include "variant_kernels.h"

namespace sru_asr {
const Kernels kAvx2Kernels = avx2::variant_kernels("avx2");
}  // namespace sru_asr
