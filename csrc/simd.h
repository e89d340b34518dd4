// SIMD vectors of a chosen width through the compiler's vector extension: the same source becomes SSE2, AVX2, AVX-512 or
// NEON by the flags of the translation unit. No standard-library templates here: see the note in variant.h.
#pragma once

#include <cmath>
#include <cstdint>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "variant.h"

namespace sru_asr {
// Storage type of bfloat16: the upper half of a float.
struct bfloat16 {
  uint16_t bits;
};
}  // namespace sru_asr

namespace sru_asr::SRU_ASR_VARIANT {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T, int N>
using Vector = typename VectorOf<T, N>::type;

template <class To, class From>
SRU_ASR_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

// What a storage type computes in, and how a vector of it is read and written.
template <class Storage, int N>
struct Lane {
  using Accumulator = Storage;
  static SRU_ASR_INLINE Vector<Storage, N> load(const Storage* from) {
    Vector<Storage, N> v;
    __builtin_memcpy(&v, from, sizeof(v));
    return v;
  }
  static SRU_ASR_INLINE void store(Storage* to, const Vector<Storage, N>& v) { __builtin_memcpy(to, &v, sizeof(v)); }
};

template <int N>
struct Lane<bfloat16, N> {
  using Accumulator = float;
  static SRU_ASR_INLINE Vector<float, N> load(const bfloat16* from) {
#if defined(__AVX512F__)
    if constexpr (N == 16) {  // gcc takes four instructions where there is one
      __m256i half;
      __builtin_memcpy(&half, from, sizeof(half));
      return bit_cast<Vector<float, N>>(Vector<uint32_t, N>(_mm512_cvtepu16_epi32(half)) << 16);
    }
#endif
    Vector<uint16_t, N> half;
    __builtin_memcpy(&half, from, sizeof(half));
    return bit_cast<Vector<float, N>>(__builtin_convertvector(half, Vector<uint32_t, N>) << 16);
  }
  // Round to nearest, ties to even; a NaN stays one.
  static SRU_ASR_INLINE void store(bfloat16* to, const Vector<float, N>& v) {
#if defined(__AVX512BF16__)
    if constexpr (N == 16) {
      const auto narrow = _mm512_cvtneps_pbh(v);
      __builtin_memcpy(to, &narrow, sizeof(narrow));
      return;
    }
#endif
    const auto bits = bit_cast<Vector<uint32_t, N>>(v);
    const auto rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const auto half = (v == v) ? rounded : (bits >> 16) | 0x40u;
    const auto narrow = __builtin_convertvector(half, Vector<uint16_t, N>);
    __builtin_memcpy(to, &narrow, sizeof(narrow));
  }
};

// The same for the `count` lanes of a tail, if there are fewer than N; those behind it are read as zeros.
template <int N, class Storage>
SRU_ASR_INLINE auto load_lanes(const Storage* from, int64_t count) {
  if (__builtin_expect(count >= N, 1)) return Lane<Storage, N>::load(from);
  Storage padded_row[N] = {};
  for (int64_t i = 0; i < count; ++i) padded_row[i] = from[i];
  return Lane<Storage, N>::load(padded_row);
}
template <int N, class Storage, class V>
SRU_ASR_INLINE void store_lanes(Storage* to, const V& v, int64_t count) {
  if (__builtin_expect(count >= N, 1)) return Lane<Storage, N>::store(to, v);
  Storage padded_row[N];
  Lane<Storage, N>::store(padded_row, v);
  for (int64_t i = 0; i < count; ++i) to[i] = padded_row[i];
}

// exp for |x| <= 40, the range gates() asks for, as 2^n 2^r with n an integer and |r| <= 1/2. Of the polynomials of its
// degree that are exact at 0, this one has the least relative error: 9.2e-8.
template <class Floats, int N = sizeof(Floats) / sizeof(float)>
SRU_ASR_INLINE Floats exponential_float32(Floats x) {
  using Bits = Vector<uint32_t, N>;
  const float log2_e = 1.44269504f;
  // Adding 1.5 * 2^23 rounds to an integer kept in the low bits of the mantissa; 127 is the bias of a float's exponent.
  const float magic = 12582912.0f + 127;
  const Floats shifted = x * log2_e + magic;
  const Floats r = x * log2_e - (shifted - magic);
  // In pairs (Estrin's scheme): the recurrence waits for this.
  const Floats r2 = r * r;
  const Floats low = r * 0.693147f + 1.0f, middle = r * 0.055507336f + 0.24022242f, high = r * 0.0013264727f + 0.009671513f;
  const Floats p = (high * r2 + middle) * r2 + low;
  return p * bit_cast<Floats>(bit_cast<Bits>(shifted) << 23);
}

template <class V>
SRU_ASR_INLINE V exponential(V x) {
  if constexpr (sizeof(x[0]) == sizeof(float)) return exponential_float32(x);
  // float64 exists to be checked against numerical gradients, so it takes the library's exp, lane by lane.
  for (unsigned i = 0; i < sizeof(V) / sizeof(x[0]); ++i) x[i] = ::exp(x[i]);
  return x;
}

// x within [-40, 40]; NaN stays NaN: the instructions return their second operand where either is one. They are named
// because gcc makes a comparison and a blend of the plain expression (and of AVX-512's plain name a warning).
#if defined(__AVX512F__)
#define SRU_ASR_SIMD(operation, a, b) _mm512_maskz_##operation(-1, a, b)
#elif defined(__AVX__)
#define SRU_ASR_SIMD(operation, a, b) _mm256_##operation(a, b)
#elif defined(__SSE2__)
#define SRU_ASR_SIMD(operation, a, b) _mm_##operation(a, b)
#endif
template <class V>
SRU_ASR_INLINE V clamp(V x) {
  const V zero{}, low = zero - 40, high = zero + 40;
#if defined(SRU_ASR_SIMD)
  if constexpr (sizeof(x[0]) == sizeof(float))
    return SRU_ASR_SIMD(min_ps, high, SRU_ASR_SIMD(max_ps, low, x));
  else
    return SRU_ASR_SIMD(min_pd, high, SRU_ASR_SIMD(max_pd, low, x));
#else
  x = (x < low) ? low : x;
  return (x > high) ? high : x;
#endif
}

// exp(-x) to a relative error of 3e-6, for what is rounded to bfloat16 in the end (2e-3): the polynomial of least
// relative error on [0, 1), 2.6e-6. Infinite x are as good as any; a NaN stays one.
template <class V, int N = sizeof(V) / sizeof(float)>
SRU_ASR_INLINE V exponential_of_minus_rough(V x) {
#if defined(__AVX512F__)
  const V power = SRU_ASR_SIMD(min_ps, V{} + 60, x * -1.44269504f);
  const V r = _mm512_reduce_ps(power, 1);  // what is above its floor
#else
  using Bits = Vector<uint32_t, N>;
  const V power = clamp(x) * -1.44269504f;
  const float magic = 12582912.0f + 127;  // as above, but half less, to round down
  const V shifted = (power - 0.5f) + magic;
  const V r = power - (shifted - magic);
#endif
  const V p = (((r * 0.01353417f + 0.05201146f) * r + 0.24144276f) * r + 0.69300383f) * r + 1.0000026f;
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, power);  // p 2^floor(power)
#else
  return p * bit_cast<V>(bit_cast<Bits>(shifted) << 23);
#endif
}

// Both gates for one division: sigmoid(a) = (1 + e^-b) / ((1 + e^-a)(1 + e^-b)). The clamp keeps the product finite and
// changes a gate by less than 5e-18. A NaN in one makes both NaN.
template <bool kRough, class V>
SRU_ASR_INLINE Gates<V> gates(V a, V b) {
  V e_a, e_b;
  if constexpr (kRough) {
    e_a = exponential_of_minus_rough(a);
    e_b = exponential_of_minus_rough(b);
  } else {
    e_a = exponential(-clamp(a));
    e_b = exponential(-clamp(b));
  }
  const V one_plus_a = e_a + 1, one_plus_b = e_b + 1;
  const V inverse = 1 / (one_plus_a * one_plus_b);
  const V f = one_plus_b * inverse, r = one_plus_a * inverse;
  return {f, r, e_a * f, e_b * r};
}

}  // namespace sru_asr::SRU_ASR_VARIANT
