// What a recurrence kernel is given. Knows nothing of torch, so that every instruction set compiles it alone.
#pragma once

#include <cstdint>

namespace sru_asr {

// A tensor (batch, frames, direction, ...) whose last dimension is contiguous; strides in elements.
struct Strided {
  void* data = nullptr;
  int64_t batch = 0, frame = 0, direction = 0, part = 0;
};

// Frames are laid out window after window, chunk + lookahead frames each. The forward direction runs through the chunks
// of all windows in one sequence and from each chunk's end through that window's lookahead; the backward direction runs
// through every window on its own, from its end. A whole utterance is one window without lookahead.
struct Problem {
  int64_t batch, frames, directions, parts, hidden;
  int64_t chunk, lookahead, windows;
  const int64_t* lengths;  // (batch) in frames of the utterance; null: every frame is there
  double alpha;
  Strided u;             // (batch, frames, directions, parts, hidden): candidate, forget, reset and, if parts is 4, highway
  Strided x;             // (batch, frames, directions, hidden): the highway if parts is 3; null: no highway
  const void* weight_c;  // (directions, 2, hidden): v_forget, v_reset
  const void* bias;      // (directions, 2, hidden): b_forget, b_reset
  const void* initial;   // (batch, directions, hidden); null: zeros
};

struct Forward : Problem {
  Strided h;
  void* final_state;  // (batch, directions, hidden)
  void* states;       // null: not kept; on CPUs (batch, frames, directions, hidden), the state after each frame
  int64_t kept;       // of an utterance's states, in each direction; see cuda/runs.h
};

struct Backward : Problem {
  const void* states;
  int64_t kept;
  Strided grad_h;             // null data: zeros
  const void* grad_final;     // null: zeros
  Strided grad_u, grad_x;
  void* grad_initial;         // (batch, directions, hidden)
  void* grad_weights;         // (batch, directions, 4, hidden): v_forget, v_reset, b_forget, b_reset of each utterance
};

// The part of the work one thread does: columns [begin, end) of one utterance in one direction.
struct Task {
  int64_t utterance, direction, begin, end;
};

enum class Number { float32, float64, bfloat16, float16 };  // the last on GPUs only

constexpr int64_t kScratchRows = 7;    // of a task's columns, for a kernel to keep states and sums in
constexpr int64_t kColumnBlock = 64;  // columns are split between threads in multiples of this

}  // namespace sru_asr
