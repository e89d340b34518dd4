// The CTC loss on CPUs: utterances for threads. And the operator's schema.
#include "ctc_operator.h"

namespace sru_asr {
namespace {

struct Cpu {
  static constexpr bool kReadsLengths = true;
  static void losses(const Alignments& problem, const Tensor& log_probs) {
    const Kernels& variant = kernels();
    // Utterances that together take some 50 microseconds, or waking a thread costs more than it saves.
    const int64_t grain = 1 + 16384 / (problem.frames * (problem.tokens + kCtcLanes) + 1);
    torch::stable::parallel_for(0, log_probs.size(0), grain, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const size_t bytes = ctc_scratch(problem.lengths[b], problem.target_lengths[b]) * sizeof(float);
        const Memory scratch = allocate("sru_asr::ctc_loss", bytes);
        variant.ctc(problem, b, scratch.get());
      }
    });
  }
  static void gradients(const AlignmentGradients& problem, const Tensor& grad) {
    const Kernels& variant = kernels();
    const int64_t grain = 1 + 262144 / (problem.frames * problem.vocab + 1);
    torch::stable::parallel_for(0, grad.size(0), grain, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) variant.ctc_gradient(problem, b);
    });
  }
};

}  // namespace
}  // namespace sru_asr

STABLE_TORCH_LIBRARY_FRAGMENT(sru_asr, m) {
  m.def(
      "ctc_loss(Tensor log_probs, Tensor lengths, Tensor targets, Tensor target_lengths, int blank, bool keep_posteriors) "
      "-> (Tensor losses, Tensor posteriors)");
  m.def(
      "ctc_loss_backward(Tensor grad_losses, Tensor posteriors, Tensor lengths, Tensor targets, Tensor target_lengths, "
      "int vocab, int blank) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(sru_asr, CPU, m) {
  m.impl("ctc_loss", TORCH_BOX(&sru_asr::ctc_loss<sru_asr::Cpu>));
  m.impl("ctc_loss_backward", TORCH_BOX(&sru_asr::ctc_loss_backward<sru_asr::Cpu>));
}
