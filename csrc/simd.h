// SIMD vectors of a chosen width through the compiler's vector extension: the same source becomes SSE2, AVX2, AVX-512 or
// NEON by the flags of the translation unit. No standard-library templates here: see the note in variant.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "variant.h"

namespace sru_asr {
// Storage type of bfloat16: the upper half of a float.
struct bfloat16 {
  uint16_t bits;
};
}  // namespace sru_asr

namespace sru_asr::SRU_ASR_VARIANT {

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

// What a storage type computes in, and how a vector of it is read and written. `count` below N reads or writes a tail;
// the lanes behind it are zero.
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
    Vector<uint16_t, N> half;
    __builtin_memcpy(&half, from, sizeof(half));
    return bit_cast<Vector<float, N>>(__builtin_convertvector(half, Vector<uint32_t, N>) << 16);
  }
  // Round to nearest, ties to even; a NaN stays one.
  static SRU_ASR_INLINE void store(bfloat16* to, const Vector<float, N>& v) {
    const auto bits = bit_cast<Vector<uint32_t, N>>(v);
    const auto rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const auto half = (v == v) ? rounded : (bits >> 16) | 0x40u;
    const auto narrow = __builtin_convertvector(half, Vector<uint16_t, N>);
    __builtin_memcpy(to, &narrow, sizeof(narrow));
  }
};

// exp for |x| <= 40, the range gates() asks for: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (the coefficients are
// those of the Taylor series up to x^6, whose truncation error there is below 1.2e-7 relative).
template <class Floats, int N = sizeof(Floats) / sizeof(float)>
SRU_ASR_INLINE Floats exponential_float32(Floats x) {
  using Bits = Vector<uint32_t, N>;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer kept in the low mantissa bits
  const Floats shifted = x * 1.44269504f + magic;
  const Floats n = shifted - magic;
  const Floats r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  Floats p = r * (1.0f / 720) + (1.0f / 120);
  p = p * r + (1.0f / 24);
  p = p * r + (1.0f / 6);
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Bits scale = (bit_cast<Bits>(shifted) << 23) + 0x3f800000u;
  return p * bit_cast<Floats>(scale);
}

template <class V>
SRU_ASR_INLINE V exponential(V x) {
  if constexpr (sizeof(x[0]) == sizeof(float)) return exponential_float32(x);
  // float64 exists to be checked against numerical gradients, so it takes the library's exp, lane by lane.
  for (unsigned i = 0; i < sizeof(V) / sizeof(x[0]); ++i) x[i] = ::exp(x[i]);
  return x;
}

// Both gates for one division: sigmoid(a) = (1 + e^-b) / ((1 + e^-a)(1 + e^-b)). The clamp keeps the product finite and
// changes a gate by less than 5e-18; a comparison with NaN is false, so NaN passes through.
template <class V>
SRU_ASR_INLINE void gates(V a, V b, V& f, V& r) {
  const V low = V{} - 40, high = V{} + 40;
  a = (a < low) ? low : a;
  a = (a > high) ? high : a;
  b = (b < low) ? low : b;
  b = (b > high) ? high : b;
  const V one_plus_a = exponential(-a) + 1;
  const V one_plus_b = exponential(-b) + 1;
  const V inverse = 1 / (one_plus_a * one_plus_b);
  f = one_plus_b * inverse;
  r = one_plus_a * inverse;
}

}  // namespace sru_asr::SRU_ASR_VARIANT
