// The CTC loss and what its gradient needs, on a CPU (Graves et al. 2006, section 4.1). Included once per instruction set, after
// SRU_ASR_VARIANT, with that set's flags.
//
// Probabilities of partial alignments range over thousands of orders of magnitude within one frame, and those that are
// tiny there may be all that counts in the end. So they are kept as m * 2^e, with a mantissa and an exponent of their own:
// sums and products are as exact as float32 is, however long the utterance, and take no logarithm.
//
// States are split in two rows, blanks (before each token and at the end) and tokens, so that neighbours are neighbours in
// memory and every vector does the same.
#pragma once

#include <cmath>

#include "../simd.h"

#include "../ctc.h"

namespace sru_asr::SRU_ASR_VARIANT {
namespace {

struct Ctc {
  static constexpr int N = kVectorBytes / sizeof(float);
  using Floats = Vector<float, N>;
  using Ints = Vector<int32_t, N>;
  using FloatLane = Lane<float, N>;
  using IntLane = Lane<int32_t, N>;

  static constexpr int32_t kNothing = -(1 << 29);  // the exponent of zero, and the least; two of them fit an int32
  static constexpr float kLeast = -1e5f;           // log-probabilities below count as minus infinity
  static constexpr float kMost = 100;              // and those above are no log-probabilities
  static constexpr int64_t kFirst = kCtcLanes;     // column of the first token, behind a vector of nothing

  // m * 2^e with m in [1, 2), or zero: m = 0, e = kNothing.
  struct Scaled {
    Floats m;
    Ints e;
  };
  // Rows of such numbers.
  struct Row {
    float* m;
    int32_t* e;
    SRU_ASR_INLINE Scaled load(int64_t j) const { return {FloatLane::load(m + j), IntLane::load(e + j)}; }
    SRU_ASR_INLINE void store(int64_t j, const Scaled& x) const {
      FloatLane::store(m + j, x.m);
      IntLane::store(e + j, x.e);
    }
    void set(int64_t j, float mantissa, int32_t exponent) const { m[j] = mantissa, e[j] = exponent; }
    void clear(int64_t from, int64_t to) const {
      for (int64_t j = from; j < to; ++j) set(j, 0, kNothing);
    }
  };

  static SRU_ASR_INLINE Ints larger(Ints a, Ints b) { return a > b ? a : b; }
  // 2^d for d up to 127; 0 below -126, where it would count for nothing.
  static SRU_ASR_INLINE Floats power(Ints d) {
    const Ints none{};
    return bit_cast<Floats>(d < -126 ? none : (d + 127) << 23);
  }
  // x where all bits of `where` are set, zero where none is.
  static SRU_ASR_INLINE Scaled only(Ints where, const Scaled& x) {
    return {bit_cast<Floats>(bit_cast<Ints>(x.m) & where), (x.e & where) | (kNothing & ~where)};
  }
  // Brings m >= 0 back to [1, 2).
  static SRU_ASR_INLINE Scaled normal(Floats m, Ints e) {
    const Ints bits = bit_cast<Ints>(m);
    e += (bits >> 23) - 127;
    return only((bits != 0) & (e > kNothing), {bit_cast<Floats>((bits & 0x7fffff) | 0x3f800000), e});
  }
  static SRU_ASR_INLINE Scaled sum(const Scaled& a, const Scaled& b) {
    const Ints e = larger(a.e, b.e);
    return {a.m * power(a.e - e) + b.m * power(b.e - e), e};
  }
  static SRU_ASR_INLINE Scaled sum(const Scaled& a, const Scaled& b, const Scaled& c) {
    const Ints e = larger(larger(a.e, b.e), c.e);
    return {a.m * power(a.e - e) + b.m * power(b.e - e) + c.m * power(c.e - e), e};
  }
  static SRU_ASR_INLINE Scaled product(const Scaled& a, const Scaled& b) {
    return normal(a.m * b.m, a.e + b.e);
  }
  static SRU_ASR_INLINE Scaled normal(const Scaled& x) { return normal(x.m, x.e); }
  // e^x for x up to kMost, as 2^k e^r with k an integer and |r| <= ln(2) / 2. The product k ln(2) is taken off in two parts,
  // the first of them exact for the k of probabilities that matter; the polynomial is Taylor's, exact to 2e-8.
  static SRU_ASR_INLINE Scaled exponential(Floats x) {
    const Ints dead = x < kLeast;
    const Floats none{};
    x = dead ? none : x;
    const float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    const Floats shifted = x * log2_e;
    const Ints k = __builtin_convertvector(shifted + (shifted < none ? none - 0.5f : none + 0.5f), Ints);
    const Floats rounded = __builtin_convertvector(k, Floats);
    const Floats r = (x - rounded * ln2_high) - rounded * ln2_low;
    Floats p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return only(~dead, normal(p, k));
  }

  const Alignments& problem;
  const int64_t utterance;
  float* const scratch;  // divided below, as ctc_scratch() counts it
  const int64_t length = problem.lengths[utterance];
  const int64_t tokens = problem.target_lengths[utterance];
  const int64_t* const targets = problem.targets + utterance * problem.tokens;
  const int64_t row = ctc_row(tokens);
  const int64_t end = row - kCtcLanes;  // behind the last whole vector of columns

  float* const alpha_m = scratch;
  int32_t* const alpha_e = reinterpret_cast<int32_t*>(alpha_m + 2 * length * row);
  float* const emission_m = reinterpret_cast<float*>(alpha_e + 2 * length * row);
  int32_t* const emission_e = reinterpret_cast<int32_t*>(emission_m + length * row);
  float* const blank_m = reinterpret_cast<float*>(emission_e + length * row);
  int32_t* const blank_e = reinterpret_cast<int32_t*>(blank_m + length);
  float* const rest = reinterpret_cast<float*>(blank_e + length);

  Row spare(int64_t number) const {
    return {rest + 2 * number * row, reinterpret_cast<int32_t*>(rest + (2 * number + 1) * row)};
  }
  // Which tokens may follow the one before without a blank: all bits, or none.
  int32_t* differs() const { return reinterpret_cast<int32_t*>(rest + 8 * row); }
  float* shares() const { return rest + 9 * row; }
  float* gathered() const { return rest + 10 * row; }

  Row alpha(int64_t t, int part) const { return {alpha_m + (2 * t + part) * row, alpha_e + (2 * t + part) * row}; }
  Row emission(int64_t t) const { return {emission_m + t * row, emission_e + t * row}; }
  SRU_ASR_INLINE Scaled blank(int64_t t) const { return {Floats{} + blank_m[t], Ints{} + blank_e[t]}; }
  const float* log_probs(int64_t t) const {
    return problem.log_probs + utterance * problem.batch_stride + t * problem.frame_stride;
  }
  float* posteriors(int64_t t) const {
    return problem.posteriors + (utterance * problem.frames + t) * (problem.tokens + 1);
  }
  void fill_posteriors(int64_t frames, float value) const {
    if (problem.posteriors)
      for (int64_t i = 0; i < frames * (problem.tokens + 1); ++i) posteriors(0)[i] = value;
  }

  // Probabilities of the target's tokens and of the blank in every frame; false if one of them is no number.
  bool emit() const {
    float* const x = gathered();
    for (int64_t j = 0; j < row; ++j) x[j] = -INFINITY;
    bool sound = true;
    for (int64_t t = 0; t < length; ++t) {
      const float* from = log_probs(t);
      for (int64_t i = 0; i < tokens; ++i) {
        x[kFirst + i] = from[targets[i]];
        sound = sound && x[kFirst + i] <= kMost;
      }
      for (int64_t j = kFirst; j < end; j += N) emission(t).store(j, exponential(FloatLane::load(x + j)));
      sound = sound && from[problem.blank] <= kMost;
    }
    for (int64_t t = 0; t < length; t += N) {
      const int64_t count = length - t < N ? length - t : N;
      for (int64_t i = 0; i < count; ++i) x[i] = log_probs(t + i)[problem.blank];
      const Scaled blanks = exponential(FloatLane::load(x));
      for (int64_t i = 0; i < count; ++i) blank_m[t + i] = blanks.m[i], blank_e[t + i] = blanks.e[i];
    }
    return sound;
  }

  // alpha(t): probability of all beginnings of alignments that are in a state at frame t, frame t included.
  void forward() const {
    alpha(0, 0).clear(kFirst, end);
    alpha(0, 1).clear(kFirst, end);
    for (int64_t t = 0; t < length; ++t) alpha(t, 1).set(kFirst - 1, 0, kNothing);  // before the first token
    alpha(0, 0).set(kFirst, blank_m[0], blank_e[0]);
    if (tokens) alpha(0, 1).set(kFirst, emission(0).m[kFirst], emission(0).e[kFirst]);
    for (int64_t t = 1; t < length; ++t) {
      const Row blanks = alpha(t - 1, 0), said = alpha(t - 1, 1);
      for (int64_t j = kFirst; j < end; j += N) {
        const Scaled b = blanks.load(j), s = said.load(j), before = said.load(j - 1);
        alpha(t, 0).store(j, product(sum(b, before), blank(t)));
        alpha(t, 1).store(j, product(sum(s, b, only(IntLane::load(differs() + j), before)), emission(t).load(j)));
      }
    }
  }

  // Walks back with beta(t): probability of all ends of alignments from a state at frame t, frame t not included. Writes
  // the posteriors, alpha beta / total, for a total of m * 2^e.
  void backward(float m, int32_t e) const {
    const Row blanks = spare(0), said = spare(1), blanks_after = spare(2), said_after = spare(3);
    for (int64_t number = 0; number < 4; ++number) spare(number).clear(0, row);
    blanks.set(kFirst + tokens, 1, 0);
    if (tokens) said.set(kFirst + tokens - 1, 1, 0);
    const float inverse = 1 / m;
    for (int64_t t = length - 1; t >= 0; --t) {
      Floats blank_posterior{};
      for (int64_t j = kFirst; j < end; j += N) {
        const Scaled b = blanks.load(j), s = said.load(j), from_b = alpha(t, 0).load(j), from_s = alpha(t, 1).load(j);
        blank_posterior += from_b.m * b.m * share(from_b.e + b.e - e);
        FloatLane::store(shares() + j, from_s.m * s.m * share(from_s.e + s.e - e) * inverse);
        blanks_after.store(j, product(b, blank(t)));
        said_after.store(j, product(s, emission(t).load(j)));
      }
      float total = 0;
      for (int i = 0; i < N; ++i) total += blank_posterior[i];
      __builtin_memcpy(posteriors(t), shares() + kFirst, tokens * sizeof(float));
      posteriors(t)[problem.tokens] = total * inverse;
      for (int64_t j = kFirst; j < end; j += N) {
        const Scaled b = blanks_after.load(j), s = said_after.load(j);
        const Scaled next_b = blanks_after.load(j + 1), next_s = said_after.load(j + 1);
        blanks.store(j, normal(sum(b, s)));
        said.store(j, normal(sum(s, next_b, only(IntLane::load(differs() + j + 1), next_s))));
      }
    }
  }
  // 2^d of a part of a whole, which is at most 1 but for rounding.
  static SRU_ASR_INLINE Floats share(Ints d) {
    const Ints most = Ints{} + 2;
    return power(d > most ? most : d);
  }

  void run() const {
    float& loss = problem.losses[utterance];
    loss = 0;
    fill_posteriors(problem.frames, 0);
    if (length == 0) return;
    if (!emit()) {
      loss = NAN;
      return fill_posteriors(length, NAN);
    }
    for (int64_t j = 0; j < row; ++j) {
      const int64_t i = j - kFirst;
      differs()[j] = i >= 1 && i < tokens && targets[i] != targets[i - 1] ? -1 : 0;
    }
    forward();
    const Row blanks = alpha(length - 1, 0), said = alpha(length - 1, 1);
    const int64_t last = kFirst + tokens;
    int32_t e = blanks.e[last];
    if (tokens && said.e[last - 1] > e) e = said.e[last - 1];
    double total = scaled(blanks.m[last], blanks.e[last] - e);
    if (tokens) total += scaled(said.m[last - 1], said.e[last - 1] - e);
    if (total == 0) return;  // no alignment
    loss = static_cast<float>(-(std::log(total) + e * 0.6931471805599453));
    if (problem.posteriors) backward(static_cast<float>(total), e);
  }
  static double scaled(float m, int32_t e) { return e < -100 ? 0.0 : std::ldexp(static_cast<double>(m), e); }
};

void ctc(const Alignments& problem, int64_t utterance, void* scratch) {
  Ctc{problem, utterance, static_cast<float*>(scratch)}.run();
}

void ctc_gradient(const AlignmentGradients& args, int64_t utterance) {
  float* const to = args.grad + utterance * args.frames * args.vocab;
  const int64_t* const target = args.targets + utterance * args.tokens;
  const float scale = args.grad_losses[utterance];
  if (args.frames > 0) __builtin_memset(to, 0, args.frames * args.vocab * sizeof(float));  // else `to` may be null
  for (int64_t t = 0; t < args.lengths[utterance]; ++t) {
    const float* const posterior = args.posteriors + (utterance * args.frames + t) * (args.tokens + 1);
    float* const row = to + t * args.vocab;
    row[args.blank] = -scale * posterior[args.tokens];
    for (int64_t i = 0; i < args.target_lengths[utterance]; ++i) row[target[i]] -= scale * posterior[i];
  }
}

}  // namespace
}  // namespace sru_asr::SRU_ASR_VARIANT
