// The CTC loss and its gradient on a GPU (Graves et al. 2006, section 4.1): a warp for each utterance, and for the gradient
// one for each frame. Nothing is added up in an order that could change, and nothing waits for the CPU.
//
// As on a CPU (cpu/ctc_kernel.h says why), probabilities are m * 2^e, with mantissas and exponents of their own. Blank i
// stands before token i, the last behind all; a lane has every 32nd of either.
#pragma once

#include "warp.h"

#include "../ctc.h"

namespace sru_asr::SRU_ASR_VARIANT {

constexpr int kNothing = -(1 << 29);  // the exponent of zero; two of them fit an int

struct Scaled {
  float m;  // in [1, 2), 0 or NaN
  int e;
};

SRU_ASR_DEVICE int bits_of(float x) {
#if defined(__CUDACC__)
  return __float_as_int(x);
#else
  int bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}
SRU_ASR_DEVICE float float_of(int bits) {
#if defined(__CUDACC__)
  return __int_as_float(bits);
#else
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
#endif
}
SRU_ASR_DEVICE int larger(int a, int b) { return a > b ? a : b; }
// 2^d for d up to 127; 0 below -126, where it would count for nothing.
SRU_ASR_DEVICE float power(int d) { return d < -126 ? 0.0f : float_of((d + 127) << 23); }
// m * 2^e for a positive normal m, 0 or NaN.
SRU_ASR_DEVICE Scaled scaled(float m, int e) {
  if (m != m) return {m, 0};
  if (m == 0) return {0, kNothing};
  const int bits = bits_of(m);
  return {float_of((bits & 0x7fffff) | 0x3f800000), e + (bits >> 23) - 127};
}
SRU_ASR_DEVICE Scaled sum(const Scaled& a, const Scaled& b, const Scaled& c) {
  const int e = larger(a.e, larger(b.e, c.e));
  return scaled(a.m * power(a.e - e) + b.m * power(b.e - e) + c.m * power(c.e - e), e);
}
SRU_ASR_DEVICE Scaled product(const Scaled& a, const Scaled& b) {
  if (a.m == 0 || b.m == 0) return {0, kNothing};
  return scaled(a.m * b.m, a.e + b.e);
}
// e^x; log-probabilities above 100 are none, below -1e5 they count as minus infinity.
SRU_ASR_DEVICE Scaled emission(float x) {
  if (!(x <= 100)) return {float_of(0x7fc00000), 0};
  if (x < -1e5f) return {0, kNothing};
  // x in base 2, a float not being enough for its fraction.
  const float whole = floorf(x * 1.44269504f);
  const float rest = fmaf(whole, -0.693147182f, x) + whole * 1.90465421e-9f;  // ln 2 in two parts
  return scaled(expf(rest), static_cast<int>(whole));
}

// Rows of states in memory: blanks, then tokens, tokens + 1 of either.
struct States {
  float* m;
  int* e;
  SRU_ASR_DEVICE Scaled get(int64_t at) const { return {m[at], e[at]}; }
  SRU_ASR_DEVICE void set(int64_t at, const Scaled& x) const { m[at] = x.m, e[at] = x.e; }
};

// Numbers of four bytes of scratch for an utterance: alpha, two rows of beta, two sums of each lane.
SRU_ASR_INLINE int64_t ctc_warp_scratch(int64_t frames, int64_t tokens) {
  return (frames + 2) * 4 * (tokens + 1) + 2 * kLanes;
}

struct CtcWarp {
  const Alignments& args;
  int64_t utterance;
  float* scratch;

  int frames, tokens;
  const int64_t* target;
  PerLane<float> unsound;  // NaN if an emission is

  SRU_ASR_DEVICE CtcWarp(const Alignments& args, int64_t utterance, float* scratch)
      : args(args), utterance(utterance), scratch(scratch), frames(limited(args.lengths[utterance], args.frames)),
        tokens(limited(args.target_lengths[utterance], args.tokens)), target(args.targets + utterance * args.tokens) {}

  // Lengths on a GPU are checked by nobody else.
  static SRU_ASR_DEVICE int limited(int64_t asked, int64_t most) {
    return static_cast<int>(asked < 0 ? 0 : asked < most ? asked : most);
  }
  SRU_ASR_DEVICE int64_t row() const { return 2 * (tokens + 1); }
  SRU_ASR_DEVICE States states(int64_t index) const {
    float* const m = scratch + index * 2 * row();
    return {m, reinterpret_cast<int*>(m + row())};
  }
  SRU_ASR_DEVICE States alpha(int frame) const { return states(frame); }
  SRU_ASR_DEVICE States beta(int frame) const { return states(frames + frame % 2); }  // already times the emission
  SRU_ASR_DEVICE float* sums(int frame) const { return scratch + (frames + 2) * 2 * row() + frame % 2 * kLanes; }
  SRU_ASR_DEVICE Scaled of_token(int frame, int64_t token) const {
    const bool fits = token >= 0 && token < args.vocab;
    return emission(fits ? args.log_probs[utterance * args.batch_stride + frame * args.frame_stride + token]
                         : float_of(0x7fc00000));
  }
  SRU_ASR_DEVICE bool differ(int i, int j) const { return target[i] != target[j]; }
  static SRU_ASR_DEVICE Scaled nothing() { return {0, kNothing}; }
  static SRU_ASR_DEVICE Scaled one() { return {1, 0}; }

  SRU_ASR_DEVICE void run() {
    each_lane([&](int lane) { unsound[lane] = 0; });
    for (int frame = 0; frame < frames; ++frame) {
      each_lane([&](int lane) {
        forward(frame, lane);
        sums(0)[lane] = unsound[lane];
      });
      lanes_meet();
    }
    Scaled total = tokens == 0 ? one() : nothing();
    if (frames > 0) {
      total = sum(alpha(frames - 1).get(tokens), tokens ? alpha(frames - 1).get(2 * tokens) : nothing(), nothing());
      for (int lane = 0; lane < kLanes; ++lane)
        if (sums(0)[lane] != sums(0)[lane]) total = {sums(0)[lane], 0};
      lanes_meet();
    }
    if (args.posteriors) {
      for (int frame = frames - 1; frame >= 0; --frame) {
        each_lane([&](int lane) {
          backward(frame, total, lane);
          if (frame + 1 < frames) blank(frame + 1, lane);
        });
        lanes_meet();
      }
    }
    each_lane([&](int lane) {
      if (args.posteriors) {
        if (frames > 0) blank(0, lane);
        float* const rows = args.posteriors + utterance * args.frames * (args.tokens + 1);
        for (int64_t i = frames * (args.tokens + 1) + lane; i < args.frames * (args.tokens + 1); i += kLanes) rows[i] = 0;
      }
      if (lane == 0)
        args.losses[utterance] =
            total.m == 0 ? 0.0f : static_cast<float>(-(log(static_cast<double>(total.m)) + total.e * 0.69314718055994531));
    });
  }

  // alpha: what leads to a state, its own emission included.
  SRU_ASR_DEVICE void forward(int frame, int lane) {
    const States now = alpha(frame), before = alpha(frame - 1);
    const Scaled silence = of_token(frame, args.blank);
    unsound[lane] += 0 * silence.m;
    for (int i = lane; i <= tokens; i += kLanes) {
      Scaled of_blank = nothing(), of_this = nothing();
      const Scaled last = frame && i ? before.get(tokens + i) : nothing();  // token i - 1
      if (frame)
        of_blank = sum(before.get(i), last, nothing());
      else if (i == 0)
        of_blank = one();
      now.set(i, product(of_blank, silence));
      if (i == tokens) break;
      if (frame)
        of_this = sum(before.get(tokens + 1 + i), before.get(i), i && differ(i, i - 1) ? last : nothing());
      else if (i == 0)
        of_this = one();
      const Scaled said = of_token(frame, target[i]);
      unsound[lane] += 0 * said.m;
      now.set(tokens + 1 + i, product(of_this, said));
    }
  }
  // beta: what follows a state. With alpha, the share of all alignments that go through it.
  SRU_ASR_DEVICE void backward(int frame, const Scaled& total, int lane) {
    const States now = beta(frame), after = beta(frame + 1), paths = alpha(frame);
    const bool last = frame + 1 == frames;
    const Scaled silence = of_token(frame, args.blank);
    float* const posteriors = args.posteriors + (utterance * args.frames + frame) * (args.tokens + 1);
    float blanks = 0;
    for (int i = lane; i <= tokens; i += kLanes) {
      Scaled of_blank = nothing(), of_this = nothing();
      const Scaled next = !last && i < tokens ? after.get(tokens + 1 + i) : nothing();
      if (!last)
        of_blank = sum(after.get(i), next, nothing());
      else if (i == tokens)
        of_blank = one();
      blanks += share(paths.get(i), of_blank, total);
      now.set(i, product(of_blank, silence));
      if (i == tokens) break;
      if (!last)
        of_this = sum(next, after.get(i + 1),
                      i + 1 < tokens && differ(i, i + 1) ? after.get(tokens + 2 + i) : nothing());
      else if (i + 1 == tokens)
        of_this = one();
      posteriors[i] = share(paths.get(tokens + 1 + i), of_this, total);
      now.set(tokens + 1 + i, product(of_this, of_token(frame, target[i])));
    }
    for (int64_t i = tokens + lane; i < args.tokens; i += kLanes) posteriors[i] = 0;
    sums(frame)[lane] = blanks;
  }
  // All lanes' blanks of a frame, added up in order.
  SRU_ASR_DEVICE void blank(int frame, int lane) {
    if (lane != 0) return;
    float all = 0;
    for (int i = 0; i < kLanes; ++i) all += sums(frame)[i];
    args.posteriors[(utterance * args.frames + frame) * (args.tokens + 1) + args.tokens] = all;
  }
  static SRU_ASR_DEVICE float share(const Scaled& paths, const Scaled& rest, const Scaled& total) {
    if (total.m == 0) return 0;
    const Scaled through = product(paths, rest);
    if (through.m == 0) return 0 * total.m;
    const int e = through.e - total.e;
    return through.m / total.m * power(e < 127 ? e : 127);
  }
};

// One frame's gradients. A lane adds up all places of its tokens, in order.
SRU_ASR_DEVICE void ctc_gradient(const AlignmentGradients& args, int64_t utterance, int64_t frame) {
  each_lane([&](int lane) {
    const int length = CtcWarp::limited(args.target_lengths[utterance], args.tokens);
    const float* const posterior = args.posteriors + (utterance * args.frames + frame) * (args.tokens + 1);
    const int64_t* const target = args.targets + utterance * args.tokens;
    float* const row = args.grad + (utterance * args.frames + frame) * args.vocab;
    const bool within = frame < args.lengths[utterance];
    for (int64_t token = lane; token < args.vocab; token += kLanes) {
      float all = within && token == args.blank ? posterior[args.tokens] : 0;
      for (int i = 0; within && i < length; ++i)
        if (target[i] == token) all += posterior[i];
      row[token] = all == 0 ? 0.0f : -args.grad_losses[utterance] * all;
    }
  });
}

}  // namespace sru_asr::SRU_ASR_VARIANT
