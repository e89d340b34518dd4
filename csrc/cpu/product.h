// The matrix product of a few rows of input with one group of columns of the weights: in bfloat16 on tiles where the
// processor has them (AMX), else by multiply-adds of vectors, which is also the way of float32.
//
// Each Product says in kRows how many rows it works on together, what they and the layer's output are made of (Storage),
// how it wants rows packed, and multiplies. Its result, float32, lies tile by tile: tile j of row r at (j * kStride + r) * 16.
//
// A row's sums are added up in an order that does not depend on what goes with it: live and offline come out the same.
//
// Weights of eight bits halve what a live recogniser, a frame at a time, is waiting for: weights. Inputs keep 16 bits, as
// multiples of a scale of their row's: x = scale * (256 high + low). Both halves are multiplied as integers, which add up
// exactly, so rows come out the same whatever goes with them and whatever the processor.
#pragma once

#include "../simd.h"

#include "../layer.h"

namespace sru_asr::SRU_ASR_VARIANT {
namespace {

constexpr int64_t kBlock = 256;               // most rows multiplied at a time
constexpr int64_t kStride = kBlock + 5;       // rows from a tile of the product to the next: not to the same L1 set
constexpr int64_t kProduct = 4 * kGroup / kTile * kStride * kTile;  // numbers of a group with four parts

// Multiply-adds of vectors. Rows are packed a few together, and for each pair of inputs the numbers of those rows side by
// side: as they are where the processor multiplies pairs (AVX-512-bf16), else as the floats they stand for.
struct VectorProduct {
  using Storage = bfloat16;
  using Weight = bfloat16;
  static constexpr int64_t kDepth = sru_asr::kDepth;
  static constexpr int N = kVectorBytes / sizeof(float);
  using V = Vector<float, N>;
  static constexpr int kVectors = 2 * kTile / N;               // of a pair of tiles
  static constexpr int kRows = N == 16 ? 12 : N == 8 ? 3 : 1;  // so that the sums fit the registers
#if defined(__AVX512BF16__)
  using Pair = uint32_t;
#else
  using Pair = Vector<float, 2>;
#endif

  static constexpr int64_t packed_bytes(int64_t inputs) { return kRows * padded_inputs(inputs) / 2 * sizeof(Pair); }
  // from: kRows rows, null for one of zeros.
  static void pack(void* to, const bfloat16* const* from, int64_t inputs) {
    Pair* at = static_cast<Pair*>(to);
    for (int64_t k = 0; k < padded_inputs(inputs); k += 2)
      for (int r = 0; r < kRows; ++r) {
        uint32_t both = 0;
        if (from[r] && k < inputs) both = from[r][k].bits;
        if (from[r] && k + 1 < inputs) both |= static_cast<uint32_t>(from[r][k + 1].bits) << 16;
#if defined(__AVX512BF16__)
        *at++ = both;
#else
        *at++ = Pair{bit_cast<float>(both << 16), bit_cast<float>(both & 0xffff0000u)};
#endif
      }
  }

  static SRU_ASR_INLINE void add_product(V& sum, const Vector<uint32_t, N>& weights, const Pair& inputs) {
#if defined(__AVX512BF16__)
    sum = _mm512_dpbf16_ps(sum, bit_cast<__m512bh>(weights), bit_cast<__m512bh>(_mm512_set1_epi32(inputs)));
#else
    sum += bit_cast<V>(weights << 16) * inputs[0];
    sum += bit_cast<V>(weights & 0xffff0000u) * inputs[1];
#endif
  }

  // One pair of tiles for kRows rows.
  static SRU_ASR_INLINE void multiply_pair(const Pair* rows, const bfloat16* weight, int64_t inputs, float* product) {
    V sum[kRows][kVectors] = {};
    for (int64_t k = 0; k < inputs; k += 2)
      for (int v = 0; v < kVectors; ++v) {
        const int tile = v * N / kTile, column = v * N % kTile;
        const bfloat16* from = weight + (k / kDepth * 2 + tile) * (kTileBytes / 2) + k % kDepth * kTile + 2 * column;
        Vector<uint32_t, N> weights;
        __builtin_memcpy(&weights, from, sizeof(weights));
        for (int r = 0; r < kRows; ++r) add_product(sum[r][v], weights, rows[k / 2 * kRows + r]);
      }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) {
        const int tile = v * N / kTile, column = v * N % kTile;
        Lane<float, N>::store(product + (tile * kStride + r) * kTile + column, sum[r][v]);
      }
  }

  struct Session {};
  static constexpr bool kInterleaved = false;

  template <class Walk>
  static void multiply(const void* rows, int64_t row_groups, const bfloat16* weight, const float*, int64_t pairs,
                       int64_t inputs, float* product, Walk&) {
    for (int64_t pair = 0; pair < pairs; ++pair)
      for (int64_t g = 0; g < row_groups; ++g)
        multiply_pair(static_cast<const Pair*>(rows) + g * kRows * inputs / 2, weight + pair * inputs * 2 * kTile, inputs,
                      product + (2 * pair * kStride + g * kRows) * kTile);
  }
};

// Multiply-adds of vectors in float32. Rows are packed a few together, 16 inputs of each side by side.
struct VectorProduct32 {
  using Storage = float;
  using Weight = float;
  static constexpr int64_t kDepth = kTile;
  static constexpr int N = kVectorBytes / sizeof(float);
  using V = Vector<float, N>;
  static constexpr int kVectors = 2;                 // of columns together:
  static constexpr int kRows = N == 16 ? 12 : 6;     // so that the sums fit the registers
  static constexpr int64_t kMostSteps = 16;  // of kDepth inputs between storing the sums: 32 KB of weights, for L1
  struct Session {};
  static constexpr bool kInterleaved = false;

  static constexpr int64_t packed_bytes(int64_t inputs) {
    return kRows * ceil_div(inputs, kDepth) * kDepth * static_cast<int64_t>(sizeof(float));
  }
  // from: kRows rows, null for one of zeros.
  static void pack(void* to, const float* const* from, int64_t inputs) {
    float* at = static_cast<float*>(to);
    for (int64_t k = 0; k < inputs; k += kDepth)
      for (int r = 0; r < kRows; ++r, at += kDepth)
        for (int64_t i = 0; i < kDepth; i += N) {
          const V some = from[r] && k + i < inputs ? load_lanes<N>(from[r] + k + i, inputs - k - i) : V{};
          Lane<float, N>::store(at + i, some);
        }
  }

  // Adds the products of `steps` times kDepth inputs, kVectors of a pair of tiles' columns, kRows rows, to what is there
  // unless these are the first.
  static SRU_ASR_INLINE void multiply_some(const float* rows, const float* weight, int64_t column, int64_t steps, bool first,
                                           float* product) {
    const auto place = [&](int r, int v) SRU_ASR_INLINE_LAMBDA {
      const int64_t j = column + v * N;
      return product + (j / kTile * kStride + r) * kTile + j % kTile;
    };
    V sum[kRows][kVectors];
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) sum[r][v] = first ? V{} : Lane<float, N>::load(place(r, v));
    const float* at = weight + column;
    for (; steps > 0; --steps, rows += kRows * kDepth, at += kDepth * 2 * kTile)
#pragma GCC unroll 16
      for (int64_t k = 0; k < kDepth; ++k) {
        V weights[kVectors];
        for (int v = 0; v < kVectors; ++v) weights[v] = Lane<float, N>::load(at + k * 2 * kTile + v * N);
        for (int r = 0; r < kRows; ++r)
          for (int v = 0; v < kVectors; ++v) sum[r][v] += weights[v] * rows[r * kDepth + k];
      }
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) Lane<float, N>::store(place(r, v), sum[r][v]);
  }

  template <class Walk>
  static void multiply(const void* rows, int64_t row_groups, const float* weight, const float*, int64_t pairs,
                       int64_t inputs, float* product, Walk&) {
    const int64_t steps = inputs / kDepth;
    const int64_t most = ceil_div(steps, ceil_div(steps, kMostSteps));
    for (int64_t pair = 0; pair < pairs; ++pair)
      for (int64_t begin = 0; begin < steps; begin += most) {
        const int64_t count = steps - begin < most ? steps - begin : most;
        const float* const b = weight + (pair * steps + begin) * kDepth * 2 * kTile;
        // The weights behind these come from afar, and are wanted in L2: a share of them with each group of rows.
        const int64_t lines = ceil_div(count * 2 * kDepth, row_groups);
        const char* ahead = reinterpret_cast<const char*>(b + count * kDepth * 2 * kTile);
        for (int64_t g = 0; g < row_groups; ++g) {
          for (int64_t line = 0; line < lines; ++line, ahead += 64) __builtin_prefetch(ahead, 0, 2);
          for (int64_t column = 0; column < 2 * kTile; column += kVectors * N)
            multiply_some(static_cast<const float*>(rows) + (g * steps + begin) * kRows * kDepth, b, column, count,
                          begin == 0, product + (2 * pair * kStride + g * kRows) * kTile);
        }
      }
  }
};

#if defined(__AMX_BF16__)
struct Tiles {
  // Configures this thread's tiles, all 16 rows of 64 bytes, and gives them back.
  struct Session {
    Session() {
      struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
      } configuration;
      asm volatile("ldtilecfg %0" : : "m"(configuration));
    }
    ~Session() { asm volatile("tilerelease"); }
  };

  // Tiles leave the vector units idle half of the time, so a walk goes on meanwhile, a vector with each step.
  static constexpr bool kInterleaved = true;

  // Takes `count` steps, and vectors of the walk along.
  template <class Walk, class Step>
  static SRU_ASR_INLINE void together_with(Walk& walk, int64_t count, Step advance) {
    const int64_t frames = walk.ready(count / Walk::kTogether);
    if (frames > 0) {
      auto chains = walk.together();
      for (int64_t frame = 0; frame < frames; ++frame) {
#pragma GCC unroll 4
        for (int v = 0; v < Walk::kTogether; ++v) {
          advance();
          chains.advance(v);
        }
        chains.next_frame();
      }
      chains.keep();
      walk.pass(frames);
    }
    for (int64_t step = frames * Walk::kTogether; step < count; ++step) advance();
  }

  // By hand, as gcc's own do not say that they read memory.
  template <int Register>
  static SRU_ASR_INLINE void load(const void* from) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(int64_t{64}), "i"(Register) : "memory");
  }
  // What is not wanted again soon: it does not push the weights out of L1.
  template <int Register>
  static SRU_ASR_INLINE void load_once(const void* from) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(int64_t{64}), "i"(Register) : "memory");
  }
  template <int Register>
  static SRU_ASR_INLINE void store(void* to) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(int64_t{64}), "i"(Register) : "memory");
  }
};

// Two tiles of rows by two of columns, over a depth that keeps the tiles of the weights in L1 while the rows go by. Those are
// read once for each pair, so they are loaded with the hint that keeps them from pushing the weights out.
struct TileProduct : Tiles {
  using Storage = bfloat16;
  using Weight = bfloat16;
  static constexpr int64_t kDepth = sru_asr::kDepth;
  static constexpr int kRows = 2 * kTile;
  static constexpr int64_t kMostSteps = 20;  // of kDepth inputs between storing the sums: 40 KB of weights

  static void pack(void* to, const bfloat16* const* from, int64_t inputs) {
    for (int64_t r = 0; r < kRows; ++r) {
      char* at = static_cast<char*>(to) + r / kTile * kTileBytes + r % kTile * 64;
      for (int64_t k = 0; k < inputs; k += kDepth, at += 2 * kTileBytes) {
        if (from[r] && k + kDepth <= inputs) {
          __builtin_memcpy(at, from[r] + k, 64);
          continue;
        }
        bfloat16 rest[kDepth] = {};
        for (int64_t i = 0; from[r] && k + i < inputs; ++i) rest[i] = from[r][k + i];
        __builtin_memcpy(at, rest, 64);
      }
    }
  }
  static constexpr int64_t packed_bytes(int64_t inputs) { return kRows * padded_inputs(inputs) * 2; }

  template <class Walk>
  static void multiply(const void* rows, int64_t row_groups, const bfloat16* weight, const float*, int64_t pairs,
                       int64_t inputs, float* product, Walk& walk) {
    const int64_t steps = inputs / kDepth;
    const int64_t most = ceil_div(steps, ceil_div(steps, kMostSteps));
    for (int64_t pair = 0; pair < pairs; ++pair)
      for (int64_t begin = 0; begin < steps; begin += most) {
        const int64_t count = steps - begin < most ? steps - begin : most;
        const char* b = reinterpret_cast<const char*>(weight) + (pair * steps + begin) * 2 * kTileBytes;
        // The next pair's weights come from afar, and are wanted in L2: a share of them with each group of rows.
        const int64_t lines = ceil_div(2 * kTile, row_groups);
        const char* ahead = b + steps * 2 * kTileBytes;
        for (int64_t g = 0; g < row_groups; ++g) {
          float* const c = product + (2 * pair * kStride + g * kRows) * kTile;
          float* const right = c + kStride * kTile;
          float* const below = c + kTile * kTile;
          float* const both = right + kTile * kTile;
          if (begin == 0) {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
          } else {
            load<0>(c);
            load<1>(right);
            load<2>(below);
            load<3>(both);
          }
          const char* a = static_cast<const char*>(rows) + (g * steps + begin) * 2 * kTileBytes;
          const char* here = b;
          const auto advance = [&]() SRU_ASR_INLINE_LAMBDA {
            for (int64_t line = 0; line < lines; ++line, ahead += 64) __builtin_prefetch(ahead, 0, 2);
            load_once<4>(a);
            load<6>(here);
            _tile_dpbf16ps(0, 4, 6);
            load<7>(here + kTileBytes);
            _tile_dpbf16ps(1, 4, 7);
            load_once<5>(a + kTileBytes);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            a += 2 * kTileBytes, here += 2 * kTileBytes;
          };
          together_with(walk, count, advance);
          store<0>(c);
          store<1>(right);
          store<2>(below);
          store<3>(both);
        }
      }
  }
};
#endif

// Inputs of a row as 16-bit numbers, and the scale that makes them floats again: a power of two, so that bfloat16's eight
// bits are kept of all that is at least 1/128 of the greatest. NaN or infinity spoil the whole row.
struct Fixed {
  static constexpr int N = kVectorBytes / sizeof(float);
  using V = Vector<float, N>;
  using Bits = Vector<int32_t, N>;

  float scale = 0, inverse = 0;

  Fixed(const bfloat16* from, int64_t inputs) {
    if (!from) return;
    Vector<uint32_t, N> most{};
    for (int64_t k = 0; k < inputs; k += N) {
      const auto magnitude = bit_cast<Vector<uint32_t, N>>(load_lanes<N>(from + k, inputs - k)) & 0x7fffffffu;
      most = magnitude > most ? magnitude : most;  // as integers, by which order NaN is greatest
    }
    uint32_t greatest = 0;
    for (int i = 0; i < N; ++i) greatest = most[i] > greatest ? most[i] : greatest;
    const uint32_t exponent = greatest & 0x7f800000u;
    if (exponent == 0x7f800000u) {
      scale = bit_cast<float>(0x7fc00000u);
    } else if (exponent > 20u << 23) {  // what is below 1e-32 counts as zero
      scale = bit_cast<float>(exponent - (14u << 23));
      inverse = bit_cast<float>((268u << 23) - exponent);
    }
  }
  // The next N numbers: scale * (256 high + low).
  SRU_ASR_INLINE void halves(const bfloat16* from, int64_t count, Bits& high, Bits& low) const {
    if (inverse == 0) {
      high = low = Bits{};
      return;
    }
    const V shifted = load_lanes<N>(from, count) * inverse + 12582912.0f;  // 1.5 * 2^23: the integer lies in the low bits
    const Bits number = bit_cast<Bits>(shifted) - 0x4b400000;
    high = number >> 8;
    low = number & 255;
  }
};

// Multiply-adds of vectors of 16 and 32 bits. Rows are packed one after the other: for every four inputs their high halves
// and their low ones; the rows' scales come first.
struct VectorProduct8 {
  using Storage = bfloat16;
  using Weight = int8_t;
  static constexpr int64_t kDepth = 2 * sru_asr::kDepth;
  static constexpr int N = kVectorBytes / sizeof(int32_t);
  using Sums = Vector<int32_t, N>;
  static constexpr int kVectors = 2 * kTile / N;  // of a tile, two sums a column
  static constexpr int kRows = N == 16 ? 4 : 1;
  struct Session {};
  static constexpr bool kInterleaved = false;

  static constexpr int64_t packed_bytes(int64_t inputs) {
    return 64 + kRows * ceil_div(inputs, kDepth) * kDepth * 2 * sizeof(int16_t);
  }
  static void pack(void* to, const bfloat16* const* from, int64_t inputs) {
    const int64_t padded = ceil_div(inputs, kDepth) * kDepth;
    for (int r = 0; r < kRows; ++r) {
      const Fixed fixed(from[r], inputs);
      static_cast<float*>(to)[r] = fixed.scale;
      int16_t* at = reinterpret_cast<int16_t*>(static_cast<char*>(to) + 64) + r * padded * 2;
      for (int64_t k = 0; k < padded; k += N) {
        Sums high{}, low{};
        if (k < inputs) fixed.halves(from[r] ? from[r] + k : nullptr, inputs - k, high, low);
        for (int i = 0; i < N; i += 4, at += 8)
          for (int j = 0; j < 4; ++j) at[j] = high[i + j], at[4 + j] = low[i + j];
      }
    }
  }

  static SRU_ASR_INLINE Sums multiply_add(const Vector<int16_t, 2 * N>& a, const Vector<int16_t, 2 * N>& b) {
#if defined(__AVX512BW__)
    return bit_cast<Sums>(_mm512_madd_epi16(bit_cast<__m512i>(a), bit_cast<__m512i>(b)));
#elif defined(__AVX2__)
    return bit_cast<Sums>(_mm256_madd_epi16(bit_cast<__m256i>(a), bit_cast<__m256i>(b)));
#elif defined(__SSE2__)
    return bit_cast<Sums>(_mm_madd_epi16(bit_cast<__m128i>(a), bit_cast<__m128i>(b)));
#else
    const Sums x = bit_cast<Sums>(a), y = bit_cast<Sums>(b);
    return (x >> 16) * (y >> 16) + (x << 16 >> 16) * (y << 16 >> 16);
#endif
  }

  template <class Walk>
  static void multiply(const void* rows, int64_t row_groups, const int8_t* weight, const float* scales, int64_t pairs,
                       int64_t inputs, float* product, Walk&) {
    for (int64_t tile = 0; tile < 2 * pairs; ++tile)
      for (int64_t g = 0; g < row_groups; ++g)
        multiply_tile(static_cast<const char*>(rows) + g * packed_bytes(inputs),
                      weight + (tile / 2 * inputs * 2 + tile % 2 * kDepth) * kTile, scales + tile * kTile, inputs,
                      product + (tile * kStride + g * kRows) * kTile);
  }
  static void multiply_tile(const char* rows, const int8_t* weight, const float* scales, int64_t inputs, float* product) {
    const float* const row_scales = reinterpret_cast<const float*>(rows);
    const int16_t* const numbers = reinterpret_cast<const int16_t*>(rows + 64);
    Sums sums[kRows][2][kVectors] = {};
    for (int64_t k = 0; k < inputs; k += 4) {
      const int8_t* const from = weight + k / kDepth * 2 * kTileBytes + k % kDepth * kTile;
      for (int v = 0; v < kVectors; ++v) {
        Vector<int8_t, 2 * N> bytes;
        __builtin_memcpy(&bytes, from + v * 2 * N, sizeof(bytes));
        const auto weights = __builtin_convertvector(bytes, Vector<int16_t, 2 * N>);
        for (int r = 0; r < kRows; ++r)
          for (int half = 0; half < 2; ++half) {
            int64_t four;
            __builtin_memcpy(&four, numbers + (r * inputs + k) * 2 + half * 4, sizeof(four));
            const Vector<int64_t, N / 2> all = Vector<int64_t, N / 2>{} + four;
            sums[r][half][v] += multiply_add(weights, bit_cast<Vector<int16_t, 2 * N>>(all));
          }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t flat[2][2 * kTile];
      __builtin_memcpy(flat, sums[r], sizeof(flat));
      for (int j = 0; j < kTile; ++j) {
        const float high = static_cast<float>(flat[0][2 * j] + flat[0][2 * j + 1]);
        const float low = static_cast<float>(flat[1][2 * j] + flat[1][2 * j + 1]);
        product[r * kTile + j] = (high * 256 + low) * (row_scales[r] * scales[j]);
      }
    }
  }
};

#if defined(__AMX_INT8__)
// A tile of rows, high halves and low ones, by two of columns. The weights of a pair stay in L1 for as many inputs as
// layers have; sums stay in tiles.
struct TileProduct8 : Tiles {
  using Storage = bfloat16;
  using Weight = int8_t;
  static constexpr int64_t kDepth = 2 * sru_asr::kDepth;
  static constexpr int kRows = kTile;

  static constexpr int64_t packed_bytes(int64_t inputs) { return 64 + kRows * ceil_div(inputs, kDepth) * kDepth * 2; }
  static void pack(void* to, const bfloat16* const* from, int64_t inputs) {
    for (int r = 0; r < kRows; ++r) {
      const Fixed fixed(from[r], inputs);
      static_cast<float*>(to)[r] = fixed.scale;
      char* at = static_cast<char*>(to) + 64 + r * kDepth;
      for (int64_t k = 0; k < inputs; k += kDepth, at += 2 * kTileBytes)
        for (int64_t i = 0; i < kDepth; i += Fixed::N) {
          Fixed::Bits high{}, low{};
          if (k + i < inputs) fixed.halves(from[r] ? from[r] + k + i : nullptr, inputs - k - i, high, low);
          const auto high_bytes = _mm512_cvtepi32_epi8(bit_cast<__m512i>(high));
          const auto low_bytes = _mm512_cvtepi32_epi8(bit_cast<__m512i>(low));
          __builtin_memcpy(at + i, &high_bytes, sizeof(high_bytes));
          __builtin_memcpy(at + kTileBytes + i, &low_bytes, sizeof(low_bytes));
        }
    }
  }

  template <class Walk>
  static void multiply(const void* rows, int64_t row_groups, const int8_t* weight, const float* scales, int64_t pairs,
                       int64_t inputs, float* product, Walk& walk) {
    const int64_t steps = inputs / kDepth;
    alignas(64) int32_t sums[4][kTile][kTile];
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const char* const b = reinterpret_cast<const char*>(weight) + pair * steps * 2 * kTileBytes;
      const int64_t lines = ceil_div(2 * kTile, row_groups);
      const char* ahead = b + steps * 2 * kTileBytes;
      for (int64_t g = 0; g < row_groups; ++g) {
        const char* const group = static_cast<const char*>(rows) + g * packed_bytes(inputs);
        const char *a = group + 64, *here = b;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        together_with(walk, steps, [&]() SRU_ASR_INLINE_LAMBDA {
          for (int64_t line = 0; line < lines; ++line, ahead += 64) __builtin_prefetch(ahead, 0, 2);
          load_once<4>(a);
          load<6>(here);
          _tile_dpbssd(0, 4, 6);
          load<7>(here + kTileBytes);
          _tile_dpbssd(1, 4, 7);
          load_once<5>(a + kTileBytes);
          _tile_dpbusd(2, 5, 6);
          _tile_dpbusd(3, 5, 7);
          a += 2 * kTileBytes, here += 2 * kTileBytes;
        });
        store<0>(sums[0]);
        store<1>(sums[1]);
        store<2>(sums[2]);
        store<3>(sums[3]);
        for (int tile = 0; tile < 2; ++tile) {
          const auto scale = Lane<float, 16>::load(scales + (2 * pair + tile) * kTile);
          float* const to = product + ((2 * pair + tile) * kStride + g * kRows) * kTile;
          for (int r = 0; r < kRows; ++r) {
            const auto high = _mm512_cvtepi32_ps(_mm512_load_si512(sums[tile][r]));
            const auto low = _mm512_cvtepi32_ps(_mm512_load_si512(sums[2 + tile][r]));
            const float row_scale = reinterpret_cast<const float*>(group)[r];
            Lane<float, 16>::store(to + r * kTile, (high * 256.0f + low) * (row_scale * scale));
          }
        }
      }
    }
  }
};
#endif

#if defined(__AMX_BF16__)
using Product16 = TileProduct;
using Product8 = TileProduct8;
#else
using Product16 = VectorProduct;
using Product8 = VectorProduct8;
#endif

}  // namespace
}  // namespace sru_asr::SRU_ASR_VARIANT
