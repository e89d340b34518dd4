// The operators on NVIDIA GPUs: on the device of their tensors, in torch's current stream. Nothing waits for the GPU.
#include "../ctc_operator.h"
#include "../recurrence_operator.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "launch.h"

// Declared by torch only where it finds the CUDA toolkit's headers, which are not needed for this.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace sru_asr {
namespace {

// launch(stream) on the device of a tensor.
template <class Launch>
void on_gpu(const char* operator_name, const Tensor& beside, Launch launch) {
  const auto device = beside.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS, operator_name,
                  ": torch does not say which stream is the current one");
  const char* const wrong = launch(stream);
  STD_TORCH_CHECK(!wrong, operator_name, ": the GPU refused the kernel: ", wrong ? wrong : "");
}

struct CudaRecurrence {
  static constexpr bool kFloat16 = true, kReadsLengths = false;
  static int64_t kept(const Problem& problem) { return kept_states(problem); }
  static void forward(Number number, const Forward& args, const Tensor& beside) {
    on_gpu(kRecurrence, beside, [&](void* stream) { return launch_forward(number, args, stream); });
  }
  static void backward(Number number, const Backward& args, const Tensor& beside) {
    on_gpu(kRecurrence, beside, [&](void* stream) { return launch_backward(number, args, stream); });
  }
  static std::tuple<Tensor, Tensor> sum_weights(const Tensor& parts) {
    const int64_t utterances[] = {0};
    const auto sum = [&](int64_t first) {
      Tensor some = parts;
      return torch::stable::sum(torch::stable::narrow(some, 2, first, 2),
                                torch::headeronly::IntHeaderOnlyArrayRef(utterances, 1));
    };
    return {sum(0), sum(2)};
  }
};

struct CudaCtc {
  static constexpr bool kReadsLengths = false;
  static void losses(const Alignments& problem, const Tensor& log_probs) {
    const int64_t batch = log_probs.size(0);
    Tensor scratch = torch::stable::new_empty(log_probs, {batch, ctc_scratch_numbers(problem.frames, problem.tokens)});
    on_gpu("sru_asr::ctc_loss", log_probs, [&](void* stream) {
      return launch_ctc(problem, batch, static_cast<float*>(scratch.data_ptr()), stream);
    });
  }
  static void gradients(const AlignmentGradients& problem, const Tensor& grad) {
    on_gpu("sru_asr::ctc_loss_backward", grad,
           [&](void* stream) { return launch_ctc_gradients(problem, grad.size(0), stream); });
  }
};

}  // namespace
}  // namespace sru_asr

STABLE_TORCH_LIBRARY_IMPL(sru_asr, CUDA, m) {
  m.impl("recurrence", TORCH_BOX(&sru_asr::recurrence<sru_asr::CudaRecurrence>));
  m.impl("recurrence_backward", TORCH_BOX(&sru_asr::recurrence_backward<sru_asr::CudaRecurrence>));
  m.impl("ctc_loss", TORCH_BOX(&sru_asr::ctc_loss<sru_asr::CudaCtc>));
  m.impl("ctc_loss_backward", TORCH_BOX(&sru_asr::ctc_loss_backward<sru_asr::CudaCtc>));
}
