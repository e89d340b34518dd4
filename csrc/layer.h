// What a fused layer kernel is given: the matrix product and the recurrence over it, in one pass. Knows
// nothing of torch.
#pragma once

#include "recurrence.h"

namespace sru_asr {

// The product lies in memory for one group of columns and one block of frames at a time, which stays in L2.
constexpr int64_t kGroup = 64;       // hidden units whose states stay in registers: four vectors of AVX-512
constexpr int64_t kTile = 16;        // columns of a tile of weights, rows of a tile of input
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kDepth = 32;       // inputs are padded to a multiple of this, the depth of a bfloat16 tile

[[maybe_unused]] static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Columns of a group come in tiles of 16: of the first 16 hidden units the candidate's, the forget gate's, the reset
// gate's and, if there is one, the highway's; then of the next 16. Two tiles make a pair; an odd last one gets zeros.
[[maybe_unused]] static constexpr int64_t group_tiles(int64_t parts, int64_t hidden, int64_t group) {
  const int64_t units = hidden - group * kGroup;
  return parts * ceil_div(units < kGroup ? units : kGroup, kTile);
}
[[maybe_unused]] static constexpr int64_t group_pairs(int64_t parts, int64_t hidden, int64_t group) {
  return ceil_div(group_tiles(parts, hidden, group), 2);
}
[[maybe_unused]] static constexpr int64_t groups(int64_t hidden) { return ceil_div(hidden, kGroup); }
[[maybe_unused]] static constexpr int64_t padded_inputs(int64_t inputs) { return ceil_div(inputs, kDepth) * kDepth; }

// Packed weights, bfloat16: direction after direction, group after group, pair after pair of tiles, each
// (inputs / 32, 2 tiles, 16 pairs of inputs, 16 columns, 2 inputs), which is what AMX and AVX-512-bf16 multiply.
[[maybe_unused]] static constexpr int64_t packed_pairs(int64_t parts, int64_t hidden) {
  const int64_t whole = hidden / kGroup;
  return whole * group_pairs(parts, kGroup, 0) + (hidden % kGroup ? group_pairs(parts, hidden, whole) : 0);
}
[[maybe_unused]] static constexpr int64_t packed_size(int64_t directions, int64_t parts, int64_t hidden, int64_t inputs) {
  return directions * packed_pairs(parts, hidden) * padded_inputs(inputs) * 2 * kTile;
}
// Packed weights of int8 are in the same order but for the pairs of tiles: (inputs / 64, 2 tiles, 16 fours of inputs,
// 16 columns, 4 inputs).
[[maybe_unused]] static constexpr int64_t packed_size8(int64_t directions, int64_t parts, int64_t hidden, int64_t inputs) {
  return directions * packed_pairs(parts, hidden) * ceil_div(inputs, 2 * kDepth) * 2 * kDepth * 2 * kTile;
}

// Packed weights of float32, too: (inputs, 2 tiles, 16 columns), the inputs padded to a multiple of 16.
[[maybe_unused]] static constexpr int64_t packed_size32(int64_t directions, int64_t parts, int64_t hidden, int64_t inputs) {
  return directions * packed_pairs(parts, hidden) * ceil_div(inputs, kTile) * kTile * 2 * kTile;
}

// Without `u` and `states`: nothing is kept for a backward pass.
struct Layer : Forward {
  Number number;  // of input, highway and output: float32 or bfloat16
  int64_t inputs;
  Strided input;       // (batch, frames, inputs): what is multiplied
  const void* weight;  // packed
  const float* scales = nullptr;  // of the columns, in the order of the packed weights, if those are int8
  // The utterances at hand, a few at a time: their frames, one utterance's behind the other's, are the rows.
  int64_t first, utterances;
  void* rows;  // packed by the kernel's own `pack`
};

[[maybe_unused]] static int64_t row_count(const Layer& layer) { return layer.utterances * layer.frames; }

// How a kernel wants to be called.
struct LayerNeeds {
  int64_t rows;             // best packed together, if utterances are short
  int64_t group_rows;       // rows are packed in groups of so many,
  int64_t group_bytes;      // each into so many bytes
  int64_t scratch_bytes;    // of each thread
};

}  // namespace sru_asr
