// The CTC loss as an operator, but for the device: checks, allocation. Devices get plain pointers.
//
// A Device says whether it can read lengths and targets to check them (kReadsLengths), and computes losses and gradients.
#pragma once

#include "arguments.h"

namespace sru_asr {

inline void check_batch(const Tensor& tensor, const char* name, int64_t batch, const Tensor& log_probs) {
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == batch && tensor.scalar_type() == ScalarType::Long,
                  "sru_asr::ctc_loss: ", name, " must be (batch,) int64 with batch = ", batch, ", got ", shape(tensor));
  STD_TORCH_CHECK(tensor.device() == log_probs.device(), "sru_asr::ctc_loss: ", name, " and log_probs must be on one device");
}

// Every index the loops use, for both passes.
inline void check_targets(const int64_t* lengths, const int64_t* targets, const int64_t* target_lengths, int64_t batch,
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
template <class Device>
std::tuple<Tensor, Tensor> ctc_loss(Tensor log_probs, Tensor lengths, Tensor targets, Tensor target_lengths, int64_t blank,
                                    bool keep_posteriors) {
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
  if (Device::kReadsLengths)
    check_targets(problem.lengths, problem.targets, problem.target_lengths, batch, frames, tokens, vocab, blank);
  if (batch > 0) Device::losses(problem, log_probs);
  return {losses, posteriors};
}

// The gradient of log_probs: minus the posterior of each token in each frame, times the gradient of the utterance's loss.
template <class Device>
Tensor ctc_loss_backward(Tensor grad_losses, Tensor posteriors, Tensor lengths, Tensor targets, Tensor target_lengths,
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
  AlignmentGradients problem;
  problem.frames = frames, problem.vocab = vocab, problem.tokens = tokens, problem.blank = blank;
  problem.lengths = static_cast<const int64_t*>(lengths.data_ptr());
  problem.targets = static_cast<const int64_t*>(targets.data_ptr());
  problem.target_lengths = static_cast<const int64_t*>(target_lengths.data_ptr());
  problem.grad_losses = static_cast<const float*>(grad_losses.data_ptr());
  problem.posteriors = static_cast<const float*>(posteriors.data_ptr());
  problem.grad = static_cast<float*>(grad.data_ptr());
  if (Device::kReadsLengths)
    check_targets(problem.lengths, problem.targets, problem.target_lengths, batch, frames, tokens, vocab, blank);
  if (batch > 0) Device::gradients(problem, grad);
  return grad;
}

}  // namespace sru_asr
