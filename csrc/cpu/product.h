// The matrix product of a few rows of input with one group of columns of the weights: on tiles where the processor has
// them (AMX), else by multiply-adds of vectors.
//
// Each Product says in kRows how many rows it works on together, how it wants rows packed, and multiplies. Its result,
// float32, lies tile by tile: tile j of row r at (j * kStride + r) * 16.
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
  static void multiply(const void* rows, int64_t row_groups, const bfloat16* weight, int64_t pairs, int64_t inputs,
                       float* product, Walk&) {
    for (int64_t pair = 0; pair < pairs; ++pair)
      for (int64_t g = 0; g < row_groups; ++g)
        multiply_pair(static_cast<const Pair*>(rows) + g * kRows * inputs / 2, weight + pair * inputs * 2 * kTile, inputs,
                      product + (2 * pair * kStride + g * kRows) * kTile);
  }
};

#if defined(__AMX_BF16__)
// Two tiles of rows by two of columns, over a depth that keeps the tiles of the weights in L1 while the rows go by. Those are
// read once for each pair, so they are loaded with the hint that keeps them from pushing the weights out.
struct TileProduct {
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

  template <class Walk>
  static void multiply(const void* rows, int64_t row_groups, const bfloat16* weight, int64_t pairs, int64_t inputs,
                       float* product, Walk& walk) {
    const int64_t steps = inputs / kDepth;
    const int64_t together = ceil_div(steps, ceil_div(steps, kMostSteps));
    for (int64_t pair = 0; pair < pairs; ++pair)
      for (int64_t begin = 0; begin < steps; begin += together) {
        const int64_t count = steps - begin < together ? steps - begin : together;
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
          store<0>(c);
          store<1>(right);
          store<2>(below);
          store<3>(both);
        }
      }
  }

 private:
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
#endif

#if defined(__AMX_BF16__)
using Product = TileProduct;
#else
using Product = VectorProduct;
#endif

}  // namespace
}  // namespace sru_asr::SRU_ASR_VARIANT
