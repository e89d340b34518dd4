#define SRU_ASR_VARIANT avx512
#include "variant_kernels.h"

namespace sru_asr {
const Kernels kAvx512Kernels = avx512::variant_kernels("avx512");
}  // namespace sru_asr
