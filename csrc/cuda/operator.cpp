// The recurrence on NVIDIA GPUs: on the device of its tensors, in torch's current stream. Nothing waits for the GPU.
#include "../recurrence_operator.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "launch.h"

// Declared by torch only where it finds the CUDA toolkit's headers, which are not needed for this.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace sru_asr {
namespace {

template <class Args>
void on_gpu(const char* (*launch)(Number, const Args&, void*), Number number, const Args& args, const Tensor& beside) {
  const auto device = beside.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  const char* const wrong = launch(number, args, stream);
  STD_TORCH_CHECK(!wrong, kRecurrence, ": the GPU refused the kernel: ", wrong ? wrong : "");
}

struct Cuda {
  static constexpr bool kFloat16 = true, kReadsLengths = false;
  static int64_t kept(const Problem& problem) { return kept_states(problem); }
  static void forward(Number number, const Forward& args, const Tensor& beside) {
    on_gpu(launch_forward, number, args, beside);
  }
  static void backward(Number number, const Backward& args, const Tensor& beside) {
    on_gpu(launch_backward, number, args, beside);
  }
  static std::tuple<Tensor, Tensor> sum_weights(const Tensor& parts) {
    const int64_t first[] = {0};
    Tensor sum = torch::stable::sum(parts, torch::headeronly::IntHeaderOnlyArrayRef(first, 1));
    return {torch::stable::contiguous(torch::stable::narrow(sum, 1, 0, 2)),
            torch::stable::contiguous(torch::stable::narrow(sum, 1, 2, 2))};
  }
};

}  // namespace
}  // namespace sru_asr

STABLE_TORCH_LIBRARY_IMPL(sru_asr, CUDA, m) {
  m.impl("recurrence", TORCH_BOX(&sru_asr::recurrence<sru_asr::Cuda>));
  m.impl("recurrence_backward", TORCH_BOX(&sru_asr::recurrence_backward<sru_asr::Cuda>));
}
