// What the CTC kernel is given. Knows nothing of torch, so that every instruction set compiles it alone.
#pragma once

#include <cstdint>

namespace sru_asr {

// A batch of utterances and what is said in them (Graves et al. 2006).
struct Alignments {
  int64_t frames, vocab, tokens;  // of the padded tensors
  int64_t blank;
  const float* log_probs;  // (batch, frames, vocab), the last dimension contiguous; natural logs
  int64_t batch_stride, frame_stride;
  const int64_t* lengths;         // (batch), in frames
  const int64_t* targets;         // (batch, tokens), none of them the blank
  const int64_t* target_lengths;  // (batch)
  float* losses;                  // (batch): minus the log of the probability of the target; 0 where there is no alignment
  float* posteriors;              // (batch, frames, tokens + 1): probability, given the target, that a frame is said to be
                                  // each of its tokens and, last, the blank; 0 behind the lengths; null: not wanted
};

// What the gradient of log_probs is made of: minus the posterior of each token in each frame, times the gradient of the
// utterance's loss. Lengths and targets are those of the loss.
struct AlignmentGradients {
  int64_t frames, vocab, tokens, blank;
  const int64_t *lengths, *targets, *target_lengths;
  const float* grad_losses;  // (batch)
  const float* posteriors;   // (batch, frames, tokens + 1)
  float* grad;               // (batch, frames, vocab)
};

// Internal to each translation unit (static), so that none is linked to what another instruction set made of them.

// Columns of a row of states: one for each token and one more, in whole vectors, and a vector of nothing on either side.
constexpr int64_t kCtcLanes = 16;
[[maybe_unused]] static constexpr int64_t ctc_row(int64_t tokens) { return (tokens + kCtcLanes) / kCtcLanes * kCtcLanes + 2 * kCtcLanes; }

// Four-byte numbers of scratch that an utterance of so many frames and tokens needs: mantissas and exponents of alpha
// (blanks, tokens), of the emissions of tokens and of the blank; beta, as it is and times an emission; three other rows.
[[maybe_unused]] static constexpr int64_t ctc_scratch(int64_t frames, int64_t tokens) {
  return frames * (6 * ctc_row(tokens) + 2) + 11 * ctc_row(tokens);
}

}  // namespace sru_asr
