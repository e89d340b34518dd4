// The recurrence over time on a GPU: one warp for 128 bytes of columns of one utterance in one direction.
//
// A frame's numbers come through a ring of frames in shared memory, copied 16 bytes a lane some frames ahead, so that a warp
// waits for nothing but its own arithmetic. Warps know nothing of each other: no barrier but their own, no atomics, and
// results that depend on nothing but the inputs.
//
// The state is kept once in kSegment frames. The backward pass fetches one segment while it works on another: it makes the
// states anew from the first and goes back through the frames, with the gradients of v and b in registers.
#pragma once

#include "warp.h"

#include "../cell.h"  // after warp.h, which has its gates()

namespace sru_asr::SRU_ASR_VARIANT {

constexpr int kRing = 16;     // frames on their way or here, in the forward pass
constexpr int kSegment = 16;  // frames from one kept state to the next

// How the frames' numbers are copied: as what they are aligned for. `columns`: those of a lane at once.
enum class Copying { sixteen_bytes, columns, numbers };

// What is constant for a storage type.
template <class Storage>
struct Shape {
  using R = typename Real<Storage>::type;
  static constexpr int kLaneBytes = sizeof(Storage) < 4 ? 4 : sizeof(Storage);
  static constexpr int kColumns = kLaneBytes / sizeof(Storage);  // of a lane
  static constexpr int kWarpColumns = kLanes * kColumns;
  static constexpr int kRowBytes = kLanes * kLaneBytes;
  static constexpr bool kRough = sizeof(Storage) < 4;
  struct Columns {
    R at[kColumns];
  };
};

// Frames that are gone through without a break: of one window, upwards its chunk or its lookahead, downwards all of it.
struct Run {
  int64_t window, first, count, step;  // the frame of the layout to begin with, how many, and by 1 or -1
  bool ahead;                          // the lookahead, from the state that the chunk has left
};

// One warp's share: columns from `column` on.
struct Share {
  int64_t utterance, direction, column;
};

// The states that are kept of an utterance: a window's chunk's, then its lookahead's (downwards: the window's).
SRU_ASR_INLINE int64_t segments(int64_t frames) { return (frames + kSegment - 1) / kSegment; }
SRU_ASR_INLINE int64_t window_segments(const Problem& problem) {
  return segments(problem.chunk) + segments(problem.lookahead);
}

// The runs of an utterance in one direction.
struct Runs {
  const Problem& problem;
  int64_t direction, length;

  SRU_ASR_DEVICE Runs(const Problem& problem, const Share& share) : problem(problem), direction(share.direction) {
    const int64_t most = problem.windows * problem.chunk + problem.lookahead;
    length = problem.lengths ? problem.lengths[share.utterance] : most;
    length = length < 0 ? 0 : length < most ? length : most;  // a GPU's lengths are checked by nobody else
  }
  SRU_ASR_DEVICE int64_t size() const { return problem.chunk + problem.lookahead; }
  SRU_ASR_DEVICE int64_t window_length(int64_t window) const {
    const int64_t left = length - window * problem.chunk;
    return left < 0 ? 0 : left < size() ? left : size();
  }
  SRU_ASR_DEVICE int64_t per_window() const { return direction == 0 && problem.lookahead ? 2 : 1; }
  SRU_ASR_DEVICE int64_t count() const { return problem.windows * per_window(); }
  SRU_ASR_DEVICE Run operator[](int64_t index) const {
    Run run;
    run.window = index / per_window();
    run.ahead = index % per_window() == 1;
    const int64_t start = run.window * size(), valid = window_length(run.window);
    if (direction == 1) {
      run.first = start + valid - 1, run.count = valid, run.step = -1;
    } else {
      const int64_t chunk = valid < problem.chunk ? valid : problem.chunk;
      run.first = run.ahead ? start + chunk : start;
      run.count = run.ahead ? valid - chunk : chunk;
      run.step = 1;
    }
    return run;
  }
  SRU_ASR_DEVICE int64_t kept(const Run& run, int64_t position) const {
    return run.window * window_segments(problem) + (run.ahead ? segments(problem.chunk) : 0) + position / kSegment;
  }
  // Whether a state is kept in that row.
  SRU_ASR_DEVICE bool keeps(int64_t row) const {
    const int64_t window = row / window_segments(problem), segment = row % window_segments(problem);
    if (window >= problem.windows) return false;
    const int64_t valid = window_length(window), of_chunk = segments(problem.chunk);
    if (direction == 1) return segment < segments(valid);
    return segment < of_chunk ? segment < segments(valid < problem.chunk ? valid : problem.chunk)
                              : segment - of_chunk < segments(valid - problem.chunk);
  }
};

// A frame among the runs, in the order of the recurrence.
struct Place {
  int64_t index = 0, position = 0;
  Run run{};

  SRU_ASR_DEVICE void begin(const Runs& runs) { find(runs); }
  SRU_ASR_DEVICE bool valid(const Runs& runs) const { return index < runs.count(); }
  SRU_ASR_DEVICE int64_t frame() const { return run.first + position * run.step; }
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
  int64_t index, position;  // of its first frame
  Run run{};

  SRU_ASR_DEVICE void begin(const Runs& runs) {
    index = runs.count();
    find(runs);
  }
  SRU_ASR_DEVICE bool valid() const { return index >= 0; }
  SRU_ASR_DEVICE int count() const {
    const int64_t left = run.count - position;
    return static_cast<int>(left < kSegment ? left : kSegment);
  }
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

// Rows of a frame that are copied: candidate, forget, reset, then the highway and the output's gradient if there are any.
template <class Storage, int kMostRows>
struct Rows {
  using S = Shape<Storage>;
  static constexpr int kPieces = S::kRowBytes / 16;  // of a row
  static constexpr int kRounds = (kMostRows * kPieces + kLanes - 1) / kLanes;
  static constexpr int kSlotBytes = kMostRows * S::kRowBytes;

  const Storage* base[kMostRows];
  int64_t stride[kMostRows];
  int count = 0;
  int64_t columns;  // from the warp's first to the tensor's last
  Copying copying;
  PerLane<const Storage*> piece[kRounds];  // what a lane copies of each frame
  PerLane<int64_t> piece_stride[kRounds];

  SRU_ASR_DEVICE void add(const Strided& tensor, const Share& share, int64_t part = 0) {
    const Storage* at = static_cast<const Storage*>(tensor.data) + share.utterance * tensor.batch +
                        share.direction * tensor.direction + part * tensor.part + share.column;
#pragma unroll
    for (int row = 0; row < kMostRows; ++row)  // for a register array is indexed by constants
      if (row == count) base[row] = at, stride[row] = tensor.frame;
    ++count;
  }
  SRU_ASR_DEVICE void prepare(int lane) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int wanted = round * kLanes + lane;
      const int64_t column = wanted % kPieces * (16 / static_cast<int>(sizeof(Storage)));
      piece[round][lane] = nullptr;
      piece_stride[round][lane] = 0;
#pragma unroll
      for (int row = 0; row < kMostRows; ++row)
        if (row == wanted / kPieces && row < count && column < columns)
          piece[round][lane] = base[row] + column, piece_stride[round][lane] = stride[row];
    }
  }
  // Into a slot: row after row.
  SRU_ASR_DEVICE void copy(Copies& copies, char* slot, int64_t frame, int lane) {
    if (copying == Copying::sixteen_bytes) {
#pragma unroll
      for (int round = 0; round < kRounds; ++round)
        if (piece[round][lane])
          copies.template add<16>(slot + (round * kLanes + lane) * 16, piece[round][lane] + frame * piece_stride[round][lane]);
      return;
    }
    const int64_t column = lane * S::kColumns;
#pragma unroll
    for (int row = 0; row < kMostRows; ++row) {
      if (row >= count) break;
      char* const to = slot + row * S::kRowBytes + lane * S::kLaneBytes;
      const Storage* const from = base[row] + frame * stride[row] + column;
      if (copying == Copying::columns) {
        if (column < columns) copies.template add<S::kLaneBytes>(to, from);
      } else {
        for (int i = 0; i < S::kColumns; ++i)
          if (column + i < columns) reinterpret_cast<Storage*>(to)[i] = from[i];
      }
    }
  }
};

// What both passes share: the warp's place, its weights, its rows.
template <class Storage, int kMostRows>
struct Recurrence : Shape<Storage> {
  using S = Shape<Storage>;
  using typename S::Columns;
  using R = typename S::R;
  static constexpr int kColumns = S::kColumns;

  const Problem& problem;
  const Share share;
  Copies copies;
  Rows<Storage, kMostRows> rows;
  PerLane<Columns> weights[4];  // v_forget, v_reset, b_forget, b_reset
  const R alpha;
  const bool has_highway;
  const bool whole;  // every lane has all its columns or none

  SRU_ASR_DEVICE Recurrence(const Problem& problem, const Share& share, Copying copying)
      : problem(problem), share(share), alpha(static_cast<R>(problem.alpha)),
        has_highway(problem.parts == 4 || problem.x.data), whole(problem.hidden % kColumns == 0) {
    rows.columns = problem.hidden - share.column;
    rows.copying = copying;
    for (int part = 0; part < 3; ++part) rows.add(problem.u, share, part);
    if (problem.parts == 4)
      rows.add(problem.u, share, 3);
    else if (problem.x.data)
      rows.add(problem.x, share);
  }
  // Columns of this lane that are there.
  SRU_ASR_DEVICE int count(int lane) const {
    const int64_t left = rows.columns - lane * kColumns;
    return left <= 0 ? 0 : left < kColumns ? static_cast<int>(left) : kColumns;
  }
  // Of a row of (..., hidden) that begins at `row`; zeros where it is null or ends.
  template <class T>
  SRU_ASR_DEVICE Columns get(const T* row, int lane) const {
    Columns value{};
    if (row)
      for (int i = 0; i < kColumns; ++i)
        if (i < count(lane)) value.at[i] = real(row[share.column + lane * kColumns + i]);
    return value;
  }
  template <class T>
  SRU_ASR_DEVICE void set(T* row, const Columns& value, int lane) const {
    struct alignas(kColumns * sizeof(T)) Together {
      T at[kColumns];
    } together;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) put(together.at[i], value.at[i]);
    T* const to = row + share.column + lane * kColumns;
    if (whole && count(lane))
      *reinterpret_cast<Together*>(to) = together;
    else
      for (int i = 0; i < kColumns; ++i)
        if (i < count(lane)) to[i] = together.at[i];
  }
  // A row of (batch, directions, rows, hidden).
  template <class T>
  SRU_ASR_DEVICE T* state(T* data, int64_t of = 1, int64_t row = 0) const {
    return data ? data + ((share.utterance * problem.directions + share.direction) * of + row) * problem.hidden : nullptr;
  }
  // A row of (batch, kept, directions, hidden).
  template <class T>
  SRU_ASR_DEVICE T* kept_state(T* data, int64_t kept, int64_t row) const {
    return data + ((share.utterance * kept + row) * problem.directions + share.direction) * problem.hidden;
  }
  SRU_ASR_DEVICE Storage* output(const Strided& tensor, int64_t frame, int64_t part = 0) const {
    return static_cast<Storage*>(tensor.data) + share.utterance * tensor.batch + frame * tensor.frame +
           share.direction * tensor.direction + part * tensor.part;
  }
  SRU_ASR_DEVICE void load_weights(int lane) {
    const auto* v = static_cast<const R*>(problem.weight_c) + share.direction * 2 * problem.hidden;
    const auto* b = static_cast<const R*>(problem.bias) + share.direction * 2 * problem.hidden;
    weights[0][lane] = get(v, lane), weights[1][lane] = get(v + problem.hidden, lane);
    weights[2][lane] = get(b, lane), weights[3][lane] = get(b + problem.hidden, lane);
  }
  SRU_ASR_DEVICE Weights<R> weight(int lane, int i) {
    return {weights[0][lane].at[i], weights[1][lane].at[i], weights[2][lane].at[i], weights[3][lane].at[i]};
  }
  SRU_ASR_DEVICE Columns slot_row(const char* slot, int row, int lane) const {
    struct alignas(S::kLaneBytes) Together {
      Storage at[kColumns];
    };
    const auto together = *reinterpret_cast<const Together*>(slot + row * S::kRowBytes + lane * S::kLaneBytes);
    Columns value;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) value.at[i] = real(together.at[i]);
    return value;
  }
  SRU_ASR_DEVICE Inputs<Columns> inputs(const char* slot, int lane) const {
    Inputs<Columns> in{slot_row(slot, 0, lane), slot_row(slot, 1, lane), slot_row(slot, 2, lane), Columns{}};
    if (has_highway) {
      in.highway = slot_row(slot, 3, lane);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) in.highway.at[i] *= alpha;
    }
    return in;
  }
  SRU_ASR_DEVICE static Inputs<R> column(const Inputs<Columns>& in, int i) {
    return {in.candidate.at[i], in.forget.at[i], in.reset.at[i], in.highway.at[i]};
  }
};

template <class Storage>
struct ForwardWarp : Recurrence<Storage, 4> {
  using Base = Recurrence<Storage, 4>;
  using typename Base::Columns;
  using R = typename Base::R;
  static constexpr int kSharedBytes = kRing * decltype(Base::rows)::kSlotBytes;

  const Forward& args;

  SRU_ASR_DEVICE ForwardWarp(const Forward& args, const Share& share, Copying copying)
      : Base(args, share, copying), args(args) {}

  SRU_ASR_DEVICE void run(char* shared) {
    constexpr int kSlotBytes = decltype(Base::rows)::kSlotBytes;
    const Runs runs(args, this->share);
    PerLane<Columns> state, main;  // after the last frame; after the last chunk (downwards: at the utterance's first frame)
    Place here, ahead;
    here.begin(runs);
    ahead.begin(runs);
    each_lane([&](int lane) {
      this->load_weights(lane);
      this->rows.prepare(lane);
      main[lane] = state[lane] = this->get(this->state(static_cast<const R*>(args.initial)), lane);
      Place place = ahead;
      for (int slot = 0; slot < kRing - 1; ++slot) {
        if (place.valid(runs)) {
          this->rows.copy(this->copies, shared + slot * kSlotBytes, place.frame(), lane);
          place.next(runs);
        }
        this->copies.commit();
      }
    });
    for (int slot = 0; slot < kRing - 1 && ahead.valid(runs); ++slot) ahead.next(runs);
    int slot = 0;
    for (; here.valid(runs); here.next(runs)) {
      this->copies.template wait<kRing - 2>();
      const bool starts = here.position == 0;
      each_lane([&](int lane) {
        Columns& c = state[lane];
        if (starts && !here.run.ahead)
          c = this->share.direction == 0 ? main[lane] : this->get(this->state(static_cast<const R*>(args.initial)), lane);
        if (args.states && here.position % kSegment == 0)
          this->set(this->kept_state(static_cast<R*>(args.states), args.kept, runs.kept(here.run, here.position)), c, lane);
        const auto in = this->inputs(shared + slot * kSlotBytes, lane);
        Columns h;
#pragma unroll
        for (int i = 0; i < Base::kColumns; ++i)
          h.at[i] = cell_forward<Base::kRough>(Base::column(in, i), this->weight(lane, i), c.at[i]);
        this->set(this->output(args.h, here.frame()), h, lane);
        if (here.last() && (this->share.direction == 0 ? !here.run.ahead : here.run.window == 0)) main[lane] = c;
        // The slot that all lanes were done with when they came together.
        const int free = slot == 0 ? kRing - 1 : slot - 1;
        if (ahead.valid(runs)) this->rows.copy(this->copies, shared + free * kSlotBytes, ahead.frame(), lane);
        this->copies.commit();
      });
      if (ahead.valid(runs)) ahead.next(runs);
      slot = slot + 1 == kRing ? 0 : slot + 1;
    }
    each_lane([&](int lane) {
      this->set(this->state(static_cast<R*>(args.final_state)), main[lane], lane);
      for (int64_t window = 0; window < args.windows; ++window)
        for (int64_t i = runs.window_length(window); i < runs.size(); ++i)
          this->set(this->output(args.h, window * runs.size() + i), Columns{}, lane);
      // Or the operator's output would hold what nobody wrote.
      for (int64_t row = 0; args.states && row < args.kept; ++row)
        if (!runs.keeps(row)) this->set(this->kept_state(static_cast<R*>(args.states), args.kept, row), Columns{}, lane);
    });
  }
};

template <class Storage>
struct BackwardWarp : Recurrence<Storage, 5> {
  using Base = Recurrence<Storage, 5>;
  using typename Base::Columns;
  using R = typename Base::R;
  static constexpr int kSlotBytes = decltype(Base::rows)::kSlotBytes;
  static constexpr int kStateBytes = kLanes * sizeof(Columns);
  static constexpr int kSharedBytes = kSegment * (2 * kSlotBytes + kStateBytes);

  const Backward& args;
  PerLane<Columns> kept;  // of the segment that was fetched last

  SRU_ASR_DEVICE BackwardWarp(const Backward& args, const Share& share, Copying copying)
      : Base(args, share, copying), args(args) {
    if (args.grad_h.data) this->rows.add(args.grad_h, share);
  }

  SRU_ASR_DEVICE void fetch(const Runs& runs, const Segment& segment, char* slots, int lane) {
    if (segment.valid()) {
      for (int i = 0; i < segment.count(); ++i)
        this->rows.copy(this->copies, slots + i * kSlotBytes, segment.run.first + (segment.position + i) * segment.run.step, lane);
      const int64_t row = runs.kept(segment.run, segment.position);
      kept[lane] = this->get(this->kept_state(static_cast<const R*>(args.states), args.kept, row), lane);
    }
    this->copies.commit();
  }

  SRU_ASR_DEVICE void run(char* shared) {
    const Runs runs(args, this->share);
    const bool upwards = this->share.direction == 0;
    const bool whole_first = upwards || args.windows == 0 || runs.window_length(0) == 0;
    PerLane<Columns> grad_c, grad_main, grad_initial, sums[4];
    Segment segment;
    segment.begin(runs);
    each_lane([&](int lane) {
      this->load_weights(lane);
      this->rows.prepare(lane);
      const Columns final = this->get(this->state(static_cast<const R*>(args.grad_final)), lane);
      grad_c[lane] = grad_main[lane] = whole_first ? final : Columns{};
      grad_initial[lane] = whole_first ? final : Columns{};
      for (auto& sum : sums) sum[lane] = Columns{};
      fetch(runs, segment, shared, lane);
    });
    int half = 0;
    while (segment.valid()) {
      Segment next = segment;
      next.next(runs);
      this->copies.template wait<0>();
      each_lane([&](int lane) {
        char* const slots = shared + half * kSegment * kSlotBytes;
        auto* const states = reinterpret_cast<Columns*>(shared + 2 * kSegment * kSlotBytes) + lane;
        Columns c = kept[lane];
        fetch(runs, next, shared + (1 - half) * kSegment * kSlotBytes, lane);
        if (segment.run_ends()) {
          if (!upwards)
            grad_c[lane] = segment.run.window == 0 ? this->get(this->state(static_cast<const R*>(args.grad_final)), lane)
                                                   : Columns{};
          else if (segment.run.ahead)
            grad_c[lane] = Columns{};
          else
            grad_c[lane] = grad_main[lane];
        }
        const int count = segment.count();
        for (int i = 0; i < count; ++i) {
          states[i * kLanes] = c;
          const Columns candidate = this->slot_row(slots + i * kSlotBytes, 0, lane);
          const Columns forget = this->slot_row(slots + i * kSlotBytes, 1, lane);
#pragma unroll
          for (int j = 0; j < Base::kColumns; ++j)
            cell_state<Base::kRough>(candidate.at[j], forget.at[j], this->weight(lane, j), c.at[j]);
        }
        for (int i = count - 1; i >= 0; --i) step(segment, slots + i * kSlotBytes, i, states[i * kLanes], grad_c, sums, lane);
        if (segment.position == 0) {
          if (!upwards)
            add(grad_initial[lane], grad_c[lane]);
          else if (segment.run.ahead)
            add(grad_main[lane], grad_c[lane]);
          else
            grad_main[lane] = grad_c[lane];
        }
      });
      half = 1 - half;
      segment = next;
    }
    each_lane([&](int lane) {
      this->set(this->state(static_cast<R*>(args.grad_initial)), upwards ? grad_main[lane] : grad_initial[lane], lane);
#pragma unroll
      for (int row = 0; row < 4; ++row)
        this->set(this->state(static_cast<R*>(args.grad_weights), 4, row), sums[row][lane], lane);
      for (int64_t window = 0; window < args.windows; ++window)
        for (int64_t i = runs.window_length(window); i < runs.size(); ++i) {
          const int64_t frame = window * runs.size() + i;
          for (int64_t part = 0; part < args.parts; ++part) this->set(this->output(args.grad_u, frame, part), Columns{}, lane);
          if (args.grad_x.data) this->set(this->output(args.grad_x, frame), Columns{}, lane);
        }
    });
  }

  SRU_ASR_DEVICE static void add(Columns& to, const Columns& value) {
#pragma unroll
    for (int i = 0; i < Base::kColumns; ++i) to.at[i] += value.at[i];
  }

  // Back through one frame; c is the state before it.
  SRU_ASR_DEVICE void step(const Segment& segment, const char* slot, int i, const Columns& c, PerLane<Columns>& grad_c,
                           PerLane<Columns> (&sums)[4], int lane) {
    const auto in = this->inputs(slot, lane);
    Columns grad_h{}, candidate, forget, reset, highway;
    if (args.grad_h.data) grad_h = this->has_highway ? this->slot_row(slot, 4, lane) : this->slot_row(slot, 3, lane);
#pragma unroll
    for (int j = 0; j < Base::kColumns; ++j) {
      Weights<R> sum{sums[0][lane].at[j], sums[1][lane].at[j], sums[2][lane].at[j], sums[3][lane].at[j]};
      const auto grad = cell_backward<Base::kRough>(Base::column(in, j), this->weight(lane, j), c.at[j], grad_h.at[j],
                                                    grad_c[lane].at[j], sum);
      sums[0][lane].at[j] = sum.v_forget, sums[1][lane].at[j] = sum.v_reset;
      sums[2][lane].at[j] = sum.b_forget, sums[3][lane].at[j] = sum.b_reset;
      candidate.at[j] = grad.candidate, forget.at[j] = grad.forget, reset.at[j] = grad.reset;
      highway.at[j] = grad.highway * this->alpha;
    }
    const int64_t frame = segment.run.first + (segment.position + i) * segment.run.step;
    this->set(this->output(args.grad_u, frame, 0), candidate, lane);
    this->set(this->output(args.grad_u, frame, 1), forget, lane);
    this->set(this->output(args.grad_u, frame, 2), reset, lane);
    if (args.parts == 4)
      this->set(this->output(args.grad_u, frame, 3), highway, lane);
    else if (args.grad_x.data)
      this->set(this->output(args.grad_x, frame), highway, lane);
  }
};

// The largest pieces that rows of all these tensors can be copied in. On the host.
inline bool aligned(const Strided& tensor, int64_t number_bytes, int64_t bytes) {
  const auto fits = [&](int64_t stride) { return stride * number_bytes % bytes == 0; };
  return !tensor.data || (reinterpret_cast<uintptr_t>(tensor.data) % bytes == 0 && fits(tensor.batch) &&
                          fits(tensor.frame) && fits(tensor.direction) && fits(tensor.part));
}
template <class Storage>
Copying copying(const Problem& problem, const Strided& grad_h = {}) {
  constexpr int64_t kSize = sizeof(Storage);
  const auto all = [&](int64_t bytes) {
    return problem.hidden * kSize % bytes == 0 && aligned(problem.u, kSize, bytes) && aligned(problem.x, kSize, bytes) &&
           aligned(grad_h, kSize, bytes);
  };
  return all(16) ? Copying::sixteen_bytes : all(Shape<Storage>::kLaneBytes) ? Copying::columns : Copying::numbers;
}

}  // namespace sru_asr::SRU_ASR_VARIANT
