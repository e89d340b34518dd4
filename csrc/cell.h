// One element of the SRU recurrence (Lei et al. 2018, equations 1 to 4), forward and backward, written once.
//
// Number is a scalar or a SIMD vector: anything with + - * / and a function gates<kRough>(), declared before this file. Every
// loop of the project, on every processor, goes through here; what differs is how numbers are loaded, how wide they are, and
// whether gates may be rough, as good as bfloat16 can show.
//
//   f = sigmoid(u_f + v_f c' + b_f)        c' is the state before this frame, c the state after it
//   r = sigmoid(u_r + v_r c' + b_r)
//   c = f c' + (1 - f) u_c
//   h = r c + (1 - r) a                    a is the highway: alpha x, alpha W_h x, or nothing
#pragma once

#include "variant.h"

namespace sru_asr::SRU_ASR_VARIANT {

template <class Number>
struct Inputs {
  Number candidate, forget, reset, highway;
};

template <class Number>
struct Weights {
  Number v_forget, v_reset, b_forget, b_reset;
};

// Returns h and replaces c, the state before the frame, by the state after it. The state comes last in every sum: the rest
// does not wait for it.
template <bool kRough = false, class Number>
SRU_ASR_INLINE Number cell_forward(const Inputs<Number>& u, const Weights<Number>& w, Number& c) {
  const auto gate = gates<kRough>(u.forget + w.b_forget + w.v_forget * c, u.reset + w.b_reset + w.v_reset * c);
  c = u.candidate + gate.forget * (c - u.candidate);
  return u.highway + gate.reset * (c - u.highway);
}

// The state alone, for a backward pass that makes it anew from one that was kept.
template <bool kRough = false, class Number>
SRU_ASR_INLINE void cell_state(const Number& candidate, const Number& forget, const Weights<Number>& w, Number& c) {
  const Number before = forget + w.b_forget + w.v_forget * c;
  c = candidate + gates<kRough>(before, before).forget * (c - candidate);
}

// Returns the gradient of the inputs; adds to those of the weights; grad_c comes in as the gradient of the state after
// the frame and leaves as that of the state before it.
template <bool kRough = false, class Number>
SRU_ASR_INLINE Inputs<Number> cell_backward(const Inputs<Number>& u, const Weights<Number>& w, Number c_before,
                                            Number grad_h, Number& grad_c, Weights<Number>& grad_w) {
  const auto [f, r, not_f, not_r] =
      gates<kRough>(u.forget + w.b_forget + w.v_forget * c_before, u.reset + w.b_reset + w.v_reset * c_before);
  const Number c = u.candidate + f * (c_before - u.candidate);
  const Number total_c = grad_c + grad_h * r;
  Inputs<Number> grad;
  grad.highway = grad_h * not_r;
  grad.reset = grad.highway * (c - u.highway) * r;
  grad.candidate = total_c * not_f;
  grad.forget = grad.candidate * (c_before - u.candidate) * f;
  grad_c = total_c * f + grad.forget * w.v_forget + grad.reset * w.v_reset;
  grad_w.v_forget += grad.forget * c_before;
  grad_w.v_reset += grad.reset * c_before;
  grad_w.b_forget += grad.forget;
  grad_w.b_reset += grad.reset;
  return grad;
}

}  // namespace sru_asr::SRU_ASR_VARIANT
