// All kernels of the instruction set that the including file is compiled for.
#include "../kernels.h"
#include "ctc_kernel.h"
#include "layer_kernel.h"
#include "recurrence_kernel.h"

namespace sru_asr::SRU_ASR_VARIANT {
namespace {

constexpr Kernels variant_kernels(const char* name) {
  return {name, run<ForwardRun, Forward>, run<BackwardRun, Backward>, ctc, ctc_gradient, layer_needs, layer_pack, layer_run};
}

}  // namespace
}  // namespace sru_asr::SRU_ASR_VARIANT
