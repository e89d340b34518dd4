// The recurrence over time on a CPU. Included once per instruction set, after SRU_ASR_VARIANT, with that set's flags.
//
// Time is the outer loop and columns the inner one: each frame's row of u is read front to back once, and the columns
// are independent chains that hide each other's latency. The state of the columns stays in scratch (L1).
#pragma once

#include "../simd.h"

#include "../cell.h"  // after simd.h, which has its gates()
#include "../recurrence.h"

namespace sru_asr::SRU_ASR_VARIANT {
namespace {

template <class Storage>
struct Recurrence {
  using Real = typename Lane<Storage, 1>::Accumulator;
  static constexpr int N = kVectorBytes / sizeof(Real);
  static constexpr bool kRough = sizeof(Storage) < sizeof(Real);  // bfloat16
  using V = Vector<Real, N>;

  const Problem& problem;
  const Task& task;
  const int64_t columns = task.end - task.begin;
  const int64_t padded = (columns + N - 1) / N * N;
  const Real alpha = static_cast<Real>(problem.alpha);
  const Real* const weights = parameter(problem.weight_c);
  const Real* const biases = parameter(problem.bias);
  const bool projected = problem.parts == 4;

  // Parameters are (directions, 2, hidden); the second row of a direction lies `hidden` behind the first.
  const Real* parameter(const void* data) const {
    return static_cast<const Real*>(data) + task.direction * 2 * problem.hidden + task.begin;
  }

  // This task's columns of a frame.
  Storage* row(const Strided& tensor, int64_t frame) const {
    return static_cast<Storage*>(tensor.data) + task.utterance * tensor.batch + frame * tensor.frame +
           task.direction * tensor.direction + task.begin;
  }

  // This task's columns of (batch, directions, rows, hidden).
  template <class Pointer>
  auto state_row(Pointer data, int64_t rows = 1) const {
    return real(data) + (task.utterance * problem.directions + task.direction) * rows * problem.hidden + task.begin;
  }
  // This task's columns of (batch, frames, directions, hidden).
  template <class Pointer>
  auto kept_row(Pointer data, int64_t frame) const {
    const int64_t at = (task.utterance * problem.frames + frame) * problem.directions + task.direction;
    return real(data) + at * problem.hidden + task.begin;
  }
  static Real* real(void* data) { return static_cast<Real*>(data); }
  static const Real* real(const void* data) { return static_cast<const Real*>(data); }

  int64_t length() const {
    return problem.lengths ? problem.lengths[task.utterance] : problem.windows * problem.chunk + problem.lookahead;
  }
  int64_t window_size() const { return problem.chunk + problem.lookahead; }
  // Frames of window w that lie within the utterance.
  int64_t window_length(int64_t w) const {
    const int64_t left = length() - w * problem.chunk;
    return left < 0 ? 0 : (left < window_size() ? left : window_size());
  }
  bool backward_direction() const { return task.direction == 1; }

  // Calls body(column, count) with count N for whole vectors and the rest for the tail.
  template <class Body>
  SRU_ASR_INLINE void each_vector(Body body) const {
    int64_t j = 0;
    for (; j + N <= columns; j += N) body(j, N);
    if (j < columns) body(j, static_cast<int>(columns - j));
  }

  template <class T>
  static SRU_ASR_INLINE V load(const T* from, int count) {
    return load_lanes<N>(from, count);
  }
  template <class T>
  static SRU_ASR_INLINE void store(T* to, const V& v, int count) {
    store_lanes<N>(to, v, count);
  }

  // Where the parameters and a frame's inputs begin. Kept in registers, in a variable of the loop's own: as many
  // columns are at work at once as there are instructions in flight, so a loop must have few.
  struct Parameters {
    const Real *v_forget, *v_reset, *b_forget, *b_reset;
    SRU_ASR_INLINE Weights<V> load(int64_t j, int count) const {
      return {Recurrence::load(v_forget + j, count), Recurrence::load(v_reset + j, count),
              Recurrence::load(b_forget + j, count), Recurrence::load(b_reset + j, count)};
    }
  };
  struct Row {
    const Storage *candidate, *forget, *reset, *highway;  // the last null if there is none
    SRU_ASR_INLINE Inputs<V> load(int64_t j, int count, Real alpha) const {
      return {Recurrence::load(candidate + j, count), Recurrence::load(forget + j, count),
              Recurrence::load(reset + j, count), highway ? Recurrence::load(highway + j, count) * alpha : V{}};
    }
    // For the forward pass, a frame ahead: the hardware does not foresee a few short rows at each of many addresses.
    SRU_ASR_INLINE void prefetch(int64_t j) const {
      __builtin_prefetch(candidate + j);
      __builtin_prefetch(forget + j);
      __builtin_prefetch(reset + j);
      if (highway) __builtin_prefetch(highway + j);
    }
  };
  Parameters parameters() const { return {weights, weights + problem.hidden, biases, biases + problem.hidden}; }
  Row inputs(int64_t frame) const {
    const Storage* u = row(problem.u, frame);
    const int64_t part = problem.u.part;
    return {u, u + part, u + 2 * part, projected ? u + 3 * part : problem.x.data ? row(problem.x, frame) : nullptr};
  }

  void copy(Real* to, const Real* from) const {
    each_vector([&](int64_t j, int count) { store(to + j, from ? load(from + j, count) : V{}, count); });
  }
  void clear(Storage* to) const {
    each_vector([&](int64_t j, int count) { store(to + j, V{}, count); });
  }
};

template <class Storage>
struct ForwardRun : Recurrence<Storage> {
  using Base = Recurrence<Storage>;
  using typename Base::Real;
  using typename Base::V;
  const Forward& args;

  // `count` frames from `first`, by step +1 or -1; c is the state before the first and becomes that after the last.
  void frames(int64_t first, int64_t count, int64_t step, Real* c) const {
    const auto self = *this;  // a copy, so that what the loop stores cannot be taken for changing it
    const auto parameters = self.parameters();
    for (int64_t n = 0, t = first; n < count; ++n, t += step) {
      const auto in = self.inputs(t), next = self.inputs(n + 1 < count ? t + step : t);
      Storage* h = self.row(args.h, t);
      Real* kept = args.states ? self.kept_row(args.states, t) : nullptr;
      self.each_vector([=](int64_t j, int lanes) SRU_ASR_INLINE_LAMBDA {
        next.prefetch(j);
        V state = Base::load(c + j, lanes);
        const V out = cell_forward<Base::kRough>(in.load(j, lanes, self.alpha), parameters.load(j, lanes), state);
        Base::store(h + j, out, lanes);
        Base::store(c + j, state, lanes);
        if (kept) Base::store(kept + j, state, lanes);
      });
    }
  }

  void run(Real* scratch) const {
    const auto& self = *this;
    Real* c = scratch;
    Real* ahead = scratch + self.padded;
    const Real* initial = args.initial ? self.state_row(args.initial) : nullptr;
    Real* final_state = self.state_row(args.final_state);
    const int64_t size = self.window_size();
    self.copy(c, initial);
    for (int64_t w = 0; w < args.windows; ++w) {
      const int64_t start = w * size;
      const int64_t valid = self.window_length(w);
      if (self.backward_direction()) {
        self.copy(c, initial);
        frames(start + valid - 1, valid, -1, c);
        if (w == 0) self.copy(final_state, c);
      } else {
        const int64_t chunk = valid < args.chunk ? valid : args.chunk;
        frames(start, chunk, 1, c);
        if (valid > chunk) {
          self.copy(ahead, c);
          frames(start + chunk, valid - chunk, 1, ahead);
        }
      }
      for (int64_t t = start + valid; t < start + size; ++t) {
        self.clear(self.row(args.h, t));
        if (args.states) self.copy(self.kept_row(args.states, t), nullptr);
      }
    }
    if (!self.backward_direction() || args.windows == 0) self.copy(final_state, c);
  }
};

template <class Storage>
struct BackwardRun : Recurrence<Storage> {
  using Base = Recurrence<Storage>;
  using typename Base::Real;
  using typename Base::V;
  const Backward& args;

  // Undoes ForwardRun::frames: `count` frames ending at `last`, walked back. `before` is the state before the first of
  // them; grad_c is the gradient of the state after the last and becomes that of `before`.
  void frames(int64_t last, int64_t count, int64_t step, const Real* before, Real* grad_c, Real* grad_w,
              const Real* zeros) const {
    const auto self = *this;
    const auto parameters = self.parameters();
    Real *const v_forget = grad_w, *const v_reset = v_forget + self.padded, *const b_forget = v_reset + self.padded,
               *const b_reset = b_forget + self.padded;
    for (int64_t n = 0, t = last; n < count; ++n, t -= step) {
      const auto in = self.inputs(t);
      const Storage* grad_h = args.grad_h.data ? self.row(args.grad_h, t) : reinterpret_cast<const Storage*>(zeros);
      const Real* c = n + 1 < count ? self.kept_row(args.states, t - step) : before ? before : zeros;
      Storage* const candidate = self.row(args.grad_u, t);
      Storage *const forget = candidate + args.grad_u.part, *const reset = forget + args.grad_u.part;
      Storage* const highway = self.projected        ? reset + args.grad_u.part
                               : args.grad_x.data ? self.row(args.grad_x, t)
                                                  : nullptr;
      self.each_vector([=](int64_t j, int lanes) SRU_ASR_INLINE_LAMBDA {
        V carry = Base::load(grad_c + j, lanes);
        Weights<V> sums = {Base::load(v_forget + j, lanes), Base::load(v_reset + j, lanes),
                           Base::load(b_forget + j, lanes), Base::load(b_reset + j, lanes)};
        const Inputs<V> grad = cell_backward<Base::kRough>(in.load(j, lanes, self.alpha), parameters.load(j, lanes),
                                                           Base::load(c + j, lanes), Base::load(grad_h + j, lanes),
                                                           carry, sums);
        Base::store(grad_c + j, carry, lanes);
        Base::store(v_forget + j, sums.v_forget, lanes);
        Base::store(v_reset + j, sums.v_reset, lanes);
        Base::store(b_forget + j, sums.b_forget, lanes);
        Base::store(b_reset + j, sums.b_reset, lanes);
        Base::store(candidate + j, grad.candidate, lanes);
        Base::store(forget + j, grad.forget, lanes);
        Base::store(reset + j, grad.reset, lanes);
        if (highway) Base::store(highway + j, grad.highway * self.alpha, lanes);
      });
    }
  }

  void add(Real* to, const Real* from) const {
    this->each_vector([&](int64_t j, int lanes) {
      Base::store(to + j, Base::load(to + j, lanes) + Base::load(from + j, lanes), lanes);
    });
  }

  void run(Real* scratch) const {
    const auto& self = *this;
    const int64_t padded = self.padded;
    Real* grad_c = scratch;
    Real* ahead = scratch + padded;
    Real* grad_w = scratch + 2 * padded;
    Real* zeros = scratch + 6 * padded;
    const Real* initial = args.initial ? self.state_row(args.initial) : nullptr;
    const Real* grad_final = args.grad_final ? self.state_row(args.grad_final) : nullptr;
    Real* grad_initial = self.state_row(args.grad_initial);
    const int64_t size = self.window_size();
    for (int i = 0; i < 5; ++i) self.copy(grad_w + i * padded, nullptr);  // and zeros
    self.copy(grad_c, grad_final);
    if (self.backward_direction() && args.windows) self.copy(grad_initial, nullptr);
    for (int64_t w = args.windows - 1; w >= 0; --w) {
      const int64_t start = w * size;
      const int64_t valid = self.window_length(w);
      for (int64_t t = start + valid; t < start + size; ++t) clear_frame(t);
      if (self.backward_direction()) {
        self.copy(grad_c, w == 0 ? grad_final : nullptr);
        frames(start, valid, -1, initial, grad_c, grad_w, zeros);
        add(grad_initial, grad_c);
      } else {
        const int64_t chunk = valid < args.chunk ? valid : args.chunk;
        if (valid > chunk) {
          self.copy(ahead, nullptr);
          frames(start + valid - 1, valid - chunk, 1, self.kept_row(args.states, start + chunk - 1), ahead, grad_w,
                 zeros);
          add(grad_c, ahead);
        }
        // The frame before a chunk is the last of the previous chunk, a lookahead away in this layout.
        const Real* before = w ? self.kept_row(args.states, (w - 1) * size + args.chunk - 1) : initial;
        frames(start + chunk - 1, chunk, 1, before, grad_c, grad_w, zeros);
      }
    }
    if (!self.backward_direction() || args.windows == 0) self.copy(grad_initial, grad_c);
    Real* grad_weights = self.state_row(args.grad_weights, 4);
    for (int i = 0; i < 4; ++i) self.copy(grad_weights + i * args.hidden, grad_w + i * padded);
  }

  void clear_frame(int64_t t) const {
    Storage* grad_u = this->row(args.grad_u, t);
    for (int64_t part = 0; part < args.parts; ++part) this->clear(grad_u + part * args.grad_u.part);
    if (args.grad_x.data) this->clear(this->row(args.grad_x, t));
  }
};

template <template <class> class Run, class Args>
void run(Number number, const Args& args, const Task& task, void* scratch) {
  switch (number) {
    case Number::float32:
      return Run<float>{{args, task}, args}.run(static_cast<float*>(scratch));
    case Number::float64:
      return Run<double>{{args, task}, args}.run(static_cast<double*>(scratch));
    case Number::bfloat16:
      return Run<bfloat16>{{args, task}, args}.run(static_cast<float*>(scratch));
    case Number::float16:  // the operator refuses it
      return;
  }
}

}  // namespace
}  // namespace sru_asr::SRU_ASR_VARIANT
