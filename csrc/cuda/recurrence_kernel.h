// The recurrence over time on a GPU: one warp for 128 bytes of columns of one utterance in one direction.
//
// A frame's numbers come through a ring of frames in shared memory, copied 16 bytes a lane some frames ahead, so that a warp
// waits for nothing but its own arithmetic. Warps know nothing of each other: no barrier but their own, no atomics, and
// results that depend on nothing but the inputs.
//
// The state is kept once in kSegment frames. The backward pass fetches one segment while it works on another: it makes the
// states anew from the first and goes back through the frames, with the gradients of v and b in registers.
#pragma once

#include "runs.h"
#include "warp.h"

#include "../cell.h"  // after warp.h, which has its gates()

namespace sru_asr::SRU_ASR_VARIANT {

// In the forward pass: frames that are waited for, read and computed together, and how many such groups are on their way.
constexpr int kTogether = 4;
constexpr int kGroups = 4;

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
  struct alignas(kColumns * sizeof(R)) Columns {
    R at[kColumns];
  };
};

// Rows of a frame that are copied: candidate, forget, reset, then the highway and the output's gradient if there are any.
template <class Storage, int kMostRows>
struct Rows {
  using S = Shape<Storage>;
  static constexpr int kPieces = S::kRowBytes / 16;  // of a row
  static constexpr int kRounds = (kMostRows * kPieces + kLanes - 1) / kLanes;
  static constexpr int kSlotBytes = kMostRows * S::kRowBytes;

  const Problem& problem;
  const Strided* const grad_h;  // null if there is none
  const Share share;
  const Copying copying;
  const int count;
  PerLane<const Storage*> piece[kRounds];  // what a lane copies of each frame
  PerLane<int64_t> piece_stride[kRounds];

  SRU_ASR_DEVICE Rows(const Problem& problem, const Strided* grad_h, const Share& share, Copying copying)
      : problem(problem), grad_h(grad_h), share(share), copying(copying),
        count(problem.parts + (problem.x.data ? 1 : 0) + (grad_h ? 1 : 0)) {}

  SRU_ASR_DEVICE int64_t columns() const { return problem.hidden - share.column; }  // from the warp's first to the last

  struct Source {
    const Storage* first;  // frame
    int64_t stride;
  };
  // Worked out each time: an array of them would have to lie in memory.
  SRU_ASR_DEVICE Source source(int row) const {
    const bool of_u = row < problem.parts, of_x = row == problem.parts && problem.x.data;
    const Strided& tensor = of_u ? problem.u : of_x ? problem.x : *grad_h;
    return {static_cast<const Storage*>(tensor.data) + share.utterance * tensor.batch + share.direction * tensor.direction +
                (of_u ? row * tensor.part : 0) + share.column,
            tensor.frame};
  }
  SRU_ASR_DEVICE void prepare(int lane) {
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int wanted = round * kLanes + lane, row = wanted / kPieces;
      const int64_t column = wanted % kPieces * (16 / static_cast<int>(sizeof(Storage)));
      piece[round][lane] = nullptr;
      if (row < count && column < columns()) {
        const Source from = source(row);
        piece[round][lane] = from.first + column, piece_stride[round][lane] = from.stride;
      }
    }
  }
  // Into a slot: row after row.
  SRU_ASR_DEVICE void copy(Copies& copies, char* slot, int frame, int lane) {
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
      if (row >= count) continue;
      char* const to = slot + row * S::kRowBytes + lane * S::kLaneBytes;
      const Source first = source(row);
      const Storage* const from = first.first + frame * first.stride + column;
      if (copying == Copying::columns) {
        if (column < columns()) copies.template add<S::kLaneBytes>(to, from);
      } else {
#pragma unroll
        for (int i = 0; i < S::kColumns; ++i)
          if (column + i < columns()) reinterpret_cast<Storage*>(to)[i] = from[i];
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
  PerLane<int> mine;            // columns that are there
  PerLane<bool> whole;          // all are, and lie such that they can be written together
  R alpha;
  const bool has_highway;

  SRU_ASR_DEVICE Recurrence(const Problem& problem, const Strided* grad_h, const Share& share, Copying copying)
      : problem(problem), share(share), rows(problem, grad_h, share, copying), alpha(keep(static_cast<R>(problem.alpha))),
        has_highway(problem.parts == 4 || problem.x.data) {}

  // Of a row of (..., hidden) that begins at `row`; zeros where it is null or ends.
  template <class T>
  SRU_ASR_DEVICE Columns get(const T* row, int lane) {
    Columns value{};
#pragma unroll
    for (int i = 0; i < kColumns; ++i)
      if (row && i < mine[lane]) value.at[i] = real(row[share.column + lane * kColumns + i]);
    return value;
  }
  // To this lane's first column of a row.
  template <class T>
  SRU_ASR_DEVICE void set_mine(T* to, const Columns& value, int lane) {
    struct alignas(kColumns * sizeof(T)) Together {
      T at[kColumns];
    } together;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) put(together.at[i], value.at[i]);
    if (whole[lane]) {
      *reinterpret_cast<Together*>(to) = together;
      return;
    }
#pragma unroll
    for (int i = 0; i < kColumns; ++i)
      if (i < mine[lane]) to[i] = together.at[i];
  }
  template <class T>
  SRU_ASR_DEVICE void set(T* row, const Columns& value, int lane) {
    set_mine(row + share.column + lane * kColumns, value, lane);
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
  // A lane's first column of an utterance's first frame.
  SRU_ASR_DEVICE Storage* output(const Strided& tensor, int lane) const {
    return keep(static_cast<Storage*>(tensor.data) + share.utterance * tensor.batch + share.direction * tensor.direction +
                share.column + lane * kColumns);
  }
  // Before all else.
  SRU_ASR_DEVICE void prepare(int lane) {
    const int64_t left = rows.columns() - lane * kColumns;
    mine[lane] = left <= 0 ? 0 : left < kColumns ? static_cast<int>(left) : kColumns;
    whole[lane] = mine[lane] == kColumns && problem.hidden % kColumns == 0;
    load_weights(lane);
    rows.prepare(lane);
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
  static constexpr int kSharedBytes = kGroups * kTogether * decltype(Base::rows)::kSlotBytes;

  const Forward& args;

  SRU_ASR_DEVICE ForwardWarp(const Forward& args, const Share& share, Copying copying)
      : Base(args, nullptr, share, copying), args(args) {}

  SRU_ASR_DEVICE void run(char* shared) {
    constexpr int kSlotBytes = decltype(Base::rows)::kSlotBytes;
    const Runs runs(args, this->share);
    PerLane<Storage*> h_at;
    PerLane<Columns> state, main;  // after the last frame; after the last chunk (downwards: at the utterance's first frame)
    PerLane<Place> here, ahead;    // the same for all lanes
    each_lane([&](int lane) {
      this->prepare(lane);
      h_at[lane] = this->output(args.h, lane);
      main[lane] = state[lane] = this->get(this->state(static_cast<const R*>(args.initial)), lane);
      here[lane].begin(runs);
      ahead[lane].begin(runs);
      for (int group = 0; group < kGroups - 1; ++group) fetch(runs, ahead[lane], shared + group * kTogether * kSlotBytes, lane);
    });
    for (int group = 0; here[0].valid(runs); group = group + 1 == kGroups ? 0 : group + 1) {
      this->copies.template wait<kGroups - 2>();
      each_lane([&](int lane) {
        const char* const slots = shared + group * kTogether * kSlotBytes;
        Inputs<Columns> in[kTogether];  // those of a group behind the last frame hold anything
#pragma unroll
        for (int i = 0; i < kTogether; ++i) in[i] = this->inputs(slots + i * kSlotBytes, lane);
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
          if (here[lane].valid(runs)) {
            step(runs, here[lane], in[i], state[lane], main[lane], h_at[lane], lane);
            here[lane].next(runs);
          }
        // The group that all lanes were done with when they came together.
        const int free = group == 0 ? kGroups - 1 : group - 1;
        fetch(runs, ahead[lane], shared + free * kTogether * kSlotBytes, lane);
      });
    }
    each_lane([&](int lane) {
      this->set(this->state(static_cast<R*>(args.final_state)), main[lane], lane);
      for (int window = 0; window < runs.windows; ++window)
        for (int i = runs.window_length(window); i < runs.size(); ++i)
          this->set_mine(h_at[lane] + (window * runs.size() + i) * args.h.frame, Columns{}, lane);
      if (!args.states) return;
      // Or the operator's output would hold what nobody wrote.
      const auto clear = [&](int row) {
        this->set(this->kept_state(static_cast<R*>(args.states), args.kept, row), Columns{}, lane);
      };
      for (int window = 0; window < runs.windows; ++window) runs.each_unused(window, clear);
      for (int row = runs.windows * runs.window_segments(); row < args.kept; ++row) clear(row);
    });
  }

  // The next kTogether frames, one group of copies.
  SRU_ASR_DEVICE void fetch(const Runs& runs, Place& place, char* slots, int lane) {
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      if (place.valid(runs)) {
        this->rows.copy(this->copies, slots + i * decltype(Base::rows)::kSlotBytes, place.frame(), lane);
        place.next(runs);
      }
    this->copies.commit();
  }

  SRU_ASR_DEVICE void step(const Runs& runs, const Place& place, const Inputs<Columns>& in, Columns& c, Columns& main,
                           Storage* h_at, int lane) {
    if (place.position == 0) {
      if (!runs.upwards)
        c = this->get(this->state(static_cast<const R*>(args.initial)), lane);
      else if (!place.run.ahead)
        c = main;
    }
    if (args.states && place.position % kSegment == 0)
      this->set(this->kept_state(static_cast<R*>(args.states), args.kept, runs.kept(place.run, place.position)), c, lane);
    Columns h;
#pragma unroll
    for (int i = 0; i < Base::kColumns; ++i)
      h.at[i] = cell_forward<Base::kRough>(Base::column(in, i), this->weight(lane, i), c.at[i]);
    this->set_mine(h_at + place.frame() * args.h.frame, h, lane);
    if (place.last() && (runs.upwards ? !place.run.ahead : place.run.window == 0)) main = c;
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
  PerLane<Storage*> grad_u_at, grad_x_at;

  SRU_ASR_DEVICE BackwardWarp(const Backward& args, const Share& share, Copying copying)
      : Base(args, args.grad_h.data ? &args.grad_h : nullptr, share, copying), args(args) {}

  SRU_ASR_DEVICE void fetch(const Runs& runs, const Segment& segment, char* slots, int lane) {
    if (segment.valid()) {
      for (int i = 0; i < segment.count(); ++i)
        this->rows.copy(this->copies, slots + i * kSlotBytes, segment.frame(i), lane);
      const int row = runs.kept(segment.run, segment.position);
      kept[lane] = this->get(this->kept_state(static_cast<const R*>(args.states), args.kept, row), lane);
    }
    this->copies.commit();
  }

  SRU_ASR_DEVICE void run(char* shared) {
    const Runs runs(args, this->share);
    const bool upwards = runs.upwards;
    const bool untouched = runs.windows == 0 || runs.window_length(0) == 0;  // the final state is the initial one
    // `outer`: upwards the gradient of the state at a chunk's end, downwards of the initial state.
    PerLane<Columns> grad_c, outer, sums[4];
    Segment segment;
    segment.begin(runs);
    each_lane([&](int lane) {
      this->prepare(lane);
      grad_u_at[lane] = this->output(args.grad_u, lane);
      grad_x_at[lane] = this->output(args.grad_x, lane);
      const Columns final = this->get(this->state(static_cast<const R*>(args.grad_final)), lane);
      grad_c[lane] = outer[lane] = final;
      if (!upwards && !untouched) outer[lane] = Columns{};
#pragma unroll
      for (int row = 0; row < 4; ++row) sums[row][lane] = Columns{};
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
          if (!upwards)  // null is zeros
            grad_c[lane] =
                this->get(segment.run.window == 0 ? this->state(static_cast<const R*>(args.grad_final)) : nullptr, lane);
          else if (segment.run.ahead)
            grad_c[lane] = Columns{};
          else
            grad_c[lane] = outer[lane];
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
          if (upwards && !segment.run.ahead)
            outer[lane] = grad_c[lane];
          else
            add(outer[lane], grad_c[lane]);
        }
      });
      half = 1 - half;
      segment = next;
    }
    each_lane([&](int lane) {
      this->set(this->state(static_cast<R*>(args.grad_initial)), outer[lane], lane);
#pragma unroll
      for (int row = 0; row < 4; ++row)
        this->set(this->state(static_cast<R*>(args.grad_weights), 4, row), sums[row][lane], lane);
      for (int window = 0; window < runs.windows; ++window)
        for (int i = runs.window_length(window); i < runs.size(); ++i)
          set_gradients(window * runs.size() + i, Inputs<Columns>{}, lane);
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
    if (args.grad_h.data) grad_h = this->slot_row(slot, this->has_highway ? 4 : 3, lane);
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
    const int frame = segment.frame(i);
    set_gradients(frame, {candidate, forget, reset, highway}, lane);
  }

  SRU_ASR_DEVICE void set_gradients(int frame, const Inputs<Columns>& grad, int lane) {
    Storage* const to = grad_u_at[lane] + frame * args.grad_u.frame;
    this->set_mine(to, grad.candidate, lane);
    this->set_mine(to + args.grad_u.part, grad.forget, lane);
    this->set_mine(to + 2 * args.grad_u.part, grad.reset, lane);
    if (args.parts == 4)
      this->set_mine(to + 3 * args.grad_u.part, grad.highway, lane);
    else if (args.grad_x.data)
      this->set_mine(grad_x_at[lane] + frame * args.grad_x.frame, grad.highway, lane);
  }
};

// Calls body with the type that numbers are stored as. On the host.
template <class T>
struct Stored {
  using type = T;
};
template <class Body>
auto with_storage(Number number, Body body) {
  switch (number) {
    case Number::float32:
      return body(Stored<float>{});
    case Number::float64:
      return body(Stored<double>{});
    case Number::bfloat16:
      return body(Stored<bfloat16>{});
    default:
      return body(Stored<float16>{});
  }
}

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
