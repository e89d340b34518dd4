// In which order the recurrence goes through an utterance's frames, forward and back, and where states are kept on the way.
#pragma once

#include "warp.h"

namespace sru_asr::SRU_ASR_VARIANT {

constexpr int kSegment = 16;  // frames from one kept state to the next

// One warp's share: columns from `column` on.
struct Share {
  int64_t utterance, direction, column;
};

// Frames that are gone through without a break: of one window, upwards its chunk or its lookahead, downwards all of it.
// Frames are counted in 32 bits, which costs a third; offsets have 64.
struct Run {
  int window, first, count, step;  // the frame of the layout to begin with, how many, and by 1 or -1
  bool ahead;                      // the lookahead, from the state that the chunk has left
};

// The states that are kept of an utterance: a window's chunk's, then its lookahead's (downwards: the window's).
template <class Integer>
SRU_ASR_INLINE Integer segments(Integer frames) {
  return (frames + kSegment - 1) / kSegment;
}
SRU_ASR_INLINE int64_t window_segments(const Problem& problem) {
  return segments(problem.chunk) + segments(problem.lookahead);
}

// The runs of an utterance in one direction.
struct Runs {
  int windows, chunk, lookahead, length;
  bool upwards;

  SRU_ASR_DEVICE Runs(const Problem& problem, const Share& share) : upwards(share.direction == 0) {
    windows = static_cast<int>(problem.windows);
    chunk = windows ? static_cast<int>(problem.chunk) : 0;  // or it may be any number
    lookahead = windows ? static_cast<int>(problem.lookahead) : 0;
    length = windows * chunk + lookahead;
    if (!problem.lengths) return;
    const int64_t asked = problem.lengths[share.utterance];  // which on a GPU nobody has checked
    length = asked < 0 ? 0 : asked < length ? static_cast<int>(asked) : length;
  }
  SRU_ASR_DEVICE int size() const { return chunk + lookahead; }
  SRU_ASR_DEVICE int window_length(int window) const {
    const int left = length - window * chunk;
    return left < 0 ? 0 : left < size() ? left : size();
  }
  SRU_ASR_DEVICE int per_window() const { return upwards && lookahead ? 2 : 1; }
  SRU_ASR_DEVICE int count() const { return windows * per_window(); }
  SRU_ASR_DEVICE Run operator[](int index) const {
    Run run;
    run.window = index / per_window();
    run.ahead = index % per_window() == 1;
    const int start = run.window * size(), valid = window_length(run.window);
    if (upwards) {
      const int of_chunk = valid < chunk ? valid : chunk;
      run.first = run.ahead ? start + of_chunk : start;
      run.count = run.ahead ? valid - of_chunk : of_chunk;
      run.step = 1;
    } else {
      run.first = start + valid - 1, run.count = valid, run.step = -1;
    }
    return run;
  }
  SRU_ASR_DEVICE int window_segments() const { return segments(chunk) + segments(lookahead); }
  SRU_ASR_DEVICE int kept(const Run& run, int position) const {
    return run.window * window_segments() + (run.ahead ? segments(chunk) : 0) + position / kSegment;
  }
  // Calls clear(row) for every row of a window in which no state is kept.
  template <class Clear>
  SRU_ASR_DEVICE void each_unused(int window, Clear clear) const {
    const int valid = window_length(window), first = window * window_segments();
    const int of_chunk = upwards && valid > chunk ? chunk : valid, end = upwards ? segments(chunk) : window_segments();
    for (int i = segments(of_chunk); i < end; ++i) clear(first + i);
    if (!upwards) return;
    for (int i = segments(valid - of_chunk); i < segments(lookahead); ++i) clear(first + segments(chunk) + i);
  }
};

// A frame among the runs, in the order of the recurrence.
struct Place {
  int index = 0, position = 0;
  Run run{};

  SRU_ASR_DEVICE void begin(const Runs& runs) { find(runs); }
  SRU_ASR_DEVICE bool valid(const Runs& runs) const { return index < runs.count(); }
  SRU_ASR_DEVICE int frame() const { return run.first + position * run.step; }
  SRU_ASR_DEVICE bool last() const { return position + 1 == run.count; }
  SRU_ASR_DEVICE void next(const Runs& runs) {
    if (++position < run.count) return;
    ++index;
    position = 0;
    find(runs);
  }
  SRU_ASR_DEVICE void find(const Runs& runs) {  // the next run with frames
    for (; index < runs.count(); ++index) {
      run = runs[index];
      if (run.count > 0) return;
    }
  }
};

// A segment among the runs, in the order of the backward pass.
struct Segment {
  int index, position;  // of its first frame
  Run run{};

  SRU_ASR_DEVICE void begin(const Runs& runs) {
    index = runs.count();
    find(runs);
  }
  SRU_ASR_DEVICE bool valid() const { return index >= 0; }
  SRU_ASR_DEVICE int count() const {
    const int left = run.count - position;
    return left < kSegment ? left : kSegment;
  }
  SRU_ASR_DEVICE int frame(int i) const { return run.first + (position + i) * run.step; }
  SRU_ASR_DEVICE bool run_ends() const { return position + count() == run.count; }
  SRU_ASR_DEVICE void next(const Runs& runs) {
    if (position > 0)
      position -= kSegment;
    else
      find(runs);
  }
  SRU_ASR_DEVICE void find(const Runs& runs) {
    while (--index >= 0) {
      run = runs[index];
      if (run.count > 0) {
        position = (run.count - 1) / kSegment * kSegment;
        return;
      }
    }
  }
};

}  // namespace sru_asr::SRU_ASR_VARIANT
