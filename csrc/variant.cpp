// Which kernels run, and why, for Python to ask.
#include "arguments.h"

namespace sru_asr {
namespace {

std::string kernel_name() { return kernels().name; }
std::string kernel_reason() { return kernels_reason(); }

}  // namespace
}  // namespace sru_asr

STABLE_TORCH_LIBRARY(sru_asr, m) {
  m.def("kernel_name() -> str");
  m.def("kernel_reason() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(sru_asr, CompositeExplicitAutograd, m) {
  m.impl("kernel_name", TORCH_BOX(&sru_asr::kernel_name));
  m.impl("kernel_reason", TORCH_BOX(&sru_asr::kernel_reason));
}
