#define SRU_ASR_VARIANT avx512_bf16
#include "variant_kernels.h"

namespace sru_asr {
const Kernels kAvx512Bf16Kernels = avx512_bf16::variant_kernels("avx512_bf16");
}  // namespace sru_asr
