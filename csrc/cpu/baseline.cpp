#define SRU_ASR_VARIANT baseline
#include "variant_kernels.h"

namespace sru_asr {
const Kernels kBaselineKernels = baseline::variant_kernels("baseline");
}  // namespace sru_asr
