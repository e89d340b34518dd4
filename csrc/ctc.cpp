// The CTC loss as an operator: schema, checks, allocation. The kernels get plain pointers.
#include <algorithm>

#include "arguments.h"

namespace sru_asr {
namespace {

void check_batch(const Tensor& tensor, const char* name, int64_t batch, const Tensor& log_probs) {
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == batch && tensor.scalar_type() == ScalarType::Long,
                  "sru_asr::ctc_loss: ", name, " must be (batch,) int64 with batch = ", batch, ", got ", shape(tensor));
  STD_TORCH_CHECK(tensor.device() == log_probs.device(), "sru_asr::ctc_loss: ", name, " and log_probs must be on one device");
}

// Every index the loops use, for both passes.
void check_targets(const int64_t* lengths, const int64_t* targets, const int64_t* target_lengths, int64_t batch,
                   int64_t frames, int64_t tokens, int64_t vocab, int64_t blank) {
  for (int64_t b = 0; b < batch; ++b) {
    STD_TORCH_CHECK(lengths[b] >= 0 && lengths[b] <= frames, "sru_asr::ctc_loss: lengths[", b, "] must lie between 0 and ",
                    frames, ", got ", lengths[b]);
    STD_TORCH_CHECK(target_lengths[b] >= 0 && target_lengths[b] <= tokens, "sru_asr::ctc_loss: target_lengths[", b,
                    "] must lie between 0 and ", tokens, ", got ", target_lengths[b]);
    for (int64_t i = 0; i < target_lengths[b]; ++i) {
      const int64_t token = targets[b * tokens + i];
      STD_TORCH_CHECK(token >= 0 && token < vocab && token != blank, "sru_asr::ctc_loss: targets[", b, ", ", i,
                      "] must be a token below ", vocab, " that is not the blank (", blank, "), got ", token);
    }
  }
}

// The loss of each utterance and, if wanted, what its gradient needs (otherwise a tensor without utterances).
std::tuple<Tensor, Tensor> ctc_loss_cpu(Tensor log_probs, Tensor lengths, Tensor targets, Tensor target_lengths,
                                        int64_t blank, bool keep_posteriors) {
  STD_TORCH_CHECK(log_probs.dim() == 3 && log_probs.scalar_type() == ScalarType::Float,
                  "sru_asr::ctc_loss: log_probs must be (batch, frames, vocab) of dtype Float, got ", shape(log_probs), " of ",
                  torch::headeronly::toString(log_probs.scalar_type()));
  const int64_t batch = log_probs.size(0), frames = log_probs.size(1), vocab = log_probs.size(2);
  STD_TORCH_CHECK(targets.dim() == 2 && targets.size(0) == batch && targets.scalar_type() == ScalarType::Long,
                  "sru_asr::ctc_loss: targets must be (batch, tokens) int64 with batch = ", batch, ", got ", shape(targets));
  STD_TORCH_CHECK(targets.device() == log_probs.device(), "sru_asr::ctc_loss: targets and log_probs must be on one device");
  check_batch(lengths, "lengths", batch, log_probs);
  check_batch(target_lengths, "target_lengths", batch, log_probs);
  STD_TORCH_CHECK(blank >= 0 && blank < vocab, "sru_asr::ctc_loss: blank must lie in [0, ", vocab, "), got ", blank);
  log_probs = dense(log_probs);
  lengths = torch::stable::contiguous(lengths);
  targets = torch::stable::contiguous(targets);
  target_lengths = torch::stable::contiguous(target_lengths);
  const int64_t tokens = targets.size(1);
  Tensor losses = torch::stable::new_empty(log_probs, {batch}, ScalarType::Float);
  Tensor posteriors =
      torch::stable::new_empty(log_probs, {keep_posteriors ? batch : 0, frames, tokens + 1}, ScalarType::Float);

  Alignments problem;
  problem.frames = frames, problem.vocab = vocab, problem.tokens = tokens, problem.blank = blank;
  problem.log_probs = static_cast<const float*>(log_probs.data_ptr());
  problem.batch_stride = log_probs.stride(0), problem.frame_stride = log_probs.stride(1);
  problem.lengths = static_cast<const int64_t*>(lengths.data_ptr());
  problem.targets = static_cast<const int64_t*>(targets.data_ptr());
  problem.target_lengths = static_cast<const int64_t*>(target_lengths.data_ptr());
  problem.losses = static_cast<float*>(losses.data_ptr());
  problem.posteriors = keep_posteriors ? static_cast<float*>(posteriors.data_ptr()) : nullptr;
  check_targets(problem.lengths, problem.targets, problem.target_lengths, batch, frames, tokens, vocab, blank);
  const Kernels& variant = kernels();
  // Utterances that together take some 50 microseconds, or waking a thread costs more than it saves.
  const int64_t grain = 1 + 16384 / (frames * (tokens + kCtcLanes) + 1);
  torch::stable::parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const size_t bytes = ctc_scratch(problem.lengths[b], problem.target_lengths[b]) * sizeof(float);
      const Memory scratch = allocate("sru_asr::ctc_loss", bytes);
      variant.ctc(problem, b, scratch.get());
    }
  });
  return {losses, posteriors};
}

// The gradient of log_probs: minus the posterior of each token in each frame, times the gradient of the utterance's loss.
Tensor ctc_loss_backward_cpu(Tensor grad_losses, Tensor posteriors, Tensor lengths, Tensor targets, Tensor target_lengths,
                             int64_t vocab, int64_t blank) {
  STD_TORCH_CHECK(targets.dim() == 2 && targets.scalar_type() == ScalarType::Long && blank >= 0 && blank < vocab,
                  "sru_asr::ctc_loss_backward: targets must be (batch, tokens) int64, and the blank below vocab");
  const int64_t batch = targets.size(0), tokens = targets.size(1);
  check_batch(lengths, "lengths", batch, posteriors);
  check_batch(target_lengths, "target_lengths", batch, posteriors);
  STD_TORCH_CHECK(posteriors.dim() == 3 && posteriors.size(0) == batch && posteriors.size(2) == tokens + 1 &&
                      posteriors.scalar_type() == ScalarType::Float,
                  "sru_asr::ctc_loss_backward: posteriors must be those that a forward pass with keep_posteriors kept, got ",
                  shape(posteriors));
  STD_TORCH_CHECK(grad_losses.dim() == 1 && grad_losses.size(0) == batch && grad_losses.scalar_type() == ScalarType::Float,
                  "sru_asr::ctc_loss_backward: grad_losses must be (batch,) of dtype Float, got ", shape(grad_losses));
  const int64_t frames = posteriors.size(1);
  posteriors = torch::stable::contiguous(posteriors);
  grad_losses = torch::stable::contiguous(grad_losses);
  lengths = torch::stable::contiguous(lengths);
  targets = torch::stable::contiguous(targets);
  target_lengths = torch::stable::contiguous(target_lengths);
  Tensor grad = torch::stable::new_empty(posteriors, {batch, frames, vocab}, ScalarType::Float);
  const float* const scales = static_cast<const float*>(grad_losses.data_ptr());
  const float* const from = static_cast<const float*>(posteriors.data_ptr());
  const int64_t* const length = static_cast<const int64_t*>(lengths.data_ptr());
  const int64_t* const target = static_cast<const int64_t*>(targets.data_ptr());
  const int64_t* const target_length = static_cast<const int64_t*>(target_lengths.data_ptr());
  float* const to = static_cast<float*>(grad.data_ptr());
  check_targets(length, target, target_length, batch, frames, tokens, vocab, blank);
  const int64_t grain = 1 + 262144 / (frames * vocab + 1);
  torch::stable::parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      std::fill_n(to + b * frames * vocab, frames * vocab, 0.0f);
      for (int64_t t = 0; t < length[b]; ++t) {
        const float* const posterior = from + (b * frames + t) * (tokens + 1);
        float* const row = to + (b * frames + t) * vocab;
        row[blank] = -scales[b] * posterior[tokens];
        for (int64_t i = 0; i < target_length[b]; ++i) row[target[b * tokens + i]] -= scales[b] * posterior[i];
      }
    }
  });
  return grad;
}

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
  m.impl("ctc_loss", TORCH_BOX(&sru_asr::ctc_loss_cpu));
  m.impl("ctc_loss_backward", TORCH_BOX(&sru_asr::ctc_loss_backward_cpu));
}
