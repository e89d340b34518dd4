#define SRU_ASR_VARIANT amx
#include "variant_kernels.h"

namespace sru_asr {
const Kernels kAmxKernels = amx::variant_kernels("amx");
}  // namespace sru_asr
