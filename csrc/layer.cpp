// A layer in one pass as an operator, and the packing of its weights: schema, checks, allocation.
#include "layer.h"

#include "arguments.h"

#include <cmath>
#include <limits>

namespace sru_asr {
namespace {

constexpr const char* kName = "sru_asr::fused_layer";

// Scratch that a thread keeps for its next call: fresh pages would cost more than many a layer does. But not what an
// hour of audio in one call needs.
struct Arena {
  static constexpr size_t kKeptBytes = size_t{32} << 20;
  Memory memory{nullptr, std::free};
  size_t bytes = 0;

  void* at_least(size_t wanted) {
    if (wanted > bytes) {
      memory.reset();
      bytes = 0;
      memory = allocate(kName, wanted);
      bytes = wanted;
    }
    return memory.get();
  }

  void done() {
    if (bytes > kKeptBytes) {
      memory.reset();
      bytes = 0;
    }
  }
};

// Beyond, sums of products of eight bits with eight may not fit into 32.
constexpr int64_t kMostQuantizedInputs = 65536;

// One tile of 16 columns, whose inputs lie one behind the other, in bfloat16: two inputs of each column side by side.
void pack_tile(const uint16_t* from, int64_t columns, int64_t inputs, uint16_t* to) {
  if (columns == kTile && inputs % kDepth == 0) {  // two inputs at a time
    for (int64_t k = 0; k < inputs; k += kDepth, to += kTileBytes)
      for (int64_t pair = 0; pair < kDepth / 2; ++pair)
        for (int64_t j = 0; j < kTile; ++j)
          __builtin_memcpy(to + (pair * kTile + j) * 2, from + j * inputs + k + 2 * pair, 4);
    return;
  }
  for (int64_t k = 0; k < padded_inputs(inputs); ++k)
    for (int64_t j = 0; j < kTile; ++j)
      to[k / kDepth * kTileBytes + k % kDepth / 2 * 2 * kTile + 2 * j + k % 2] =
          j < columns && k < inputs ? from[j * inputs + k] : 0;
}
// The same in float32.
void pack_tile(const float* from, int64_t columns, int64_t inputs, float* to) {
  for (int64_t k = 0; k < ceil_div(inputs, kTile) * kTile; ++k)
    for (int64_t j = 0; j < kTile; ++j)
      to[k * 2 * kTile + j] = j < columns && k < inputs ? from[j * inputs + k] : 0;
}

// Calls each(n, row, columns) for every tile in the order of the packed weights: the n-th holds `columns` rows of the
// matrix from `row` on, none if it only completes a pair.
template <class Tile>
void each_tile(int64_t directions, int64_t parts, int64_t hidden, Tile each) {
  torch::stable::parallel_for(0, directions * groups(hidden), 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t direction = n / groups(hidden), group = n % groups(hidden);
      const int64_t before = direction * packed_pairs(parts, hidden) + group * group_pairs(parts, kGroup, 0);
      const int64_t tiles = group_tiles(parts, hidden, group);
      for (int64_t tile = 0; tile < 2 * group_pairs(parts, hidden, group); ++tile) {
        const int64_t unit = group * kGroup + tile / parts * kTile;
        const int64_t row = (direction * parts + tile % parts) * hidden + unit;
        const int64_t columns = tile < tiles ? (hidden - unit < kTile ? hidden - unit : kTile) : 0;
        each(2 * before + tile, columns ? row : 0, columns);
      }
    }
  });
}

// `size`: numbers of a pair of tiles; `tile`: from one tile to the next.
template <class Weight>
void pack(const void* weight, int64_t directions, int64_t parts, int64_t hidden, int64_t inputs, int64_t size, int64_t tile,
          void* packed) {
  each_tile(directions, parts, hidden, [&](int64_t n, int64_t row, int64_t columns) {
    pack_tile(static_cast<const Weight*>(weight) + row * inputs, columns, inputs,
              static_cast<Weight*>(packed) + n / 2 * size + n % 2 * tile);
  });
}

float to_float(float x) { return x; }
float to_float(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// Columns as int8, the greatest magnitude 127.
template <class Weight>
void quantize(const Weight* weight, int64_t directions, int64_t parts, int64_t hidden, int64_t inputs, int8_t* packed,
              float* scales) {
  const int64_t padded = ceil_div(inputs, 2 * kDepth) * 2 * kDepth;
  each_tile(directions, parts, hidden, [&](int64_t n, int64_t row, int64_t columns) {
    int8_t* const to = packed + n / 2 * padded * 2 * kTile + n % 2 * kTileBytes;
    for (int64_t j = 0; j < kTile; ++j) {
      const Weight* const from = weight + (row + j) * inputs;
      float most = 0;
      bool finite = true;
      for (int64_t k = 0; j < columns && k < inputs; ++k) {
        const float magnitude = std::fabs(to_float(from[k]));
        finite = finite && magnitude <= std::numeric_limits<float>::max();
        if (magnitude > most) most = magnitude;
      }
      scales[n * kTile + j] = finite ? most / 127 : std::nanf("");
      for (int64_t k = 0; k < padded; ++k) {
        const bool there = j < columns && k < inputs && finite && most >= 127 * std::numeric_limits<float>::min();
        to[k / (2 * kDepth) * 2 * kTileBytes + k % (2 * kDepth) / 4 * 4 * kTile + 4 * j + k % 4] =
            there ? static_cast<int8_t>(std::nearbyint(to_float(from[k]) * (127 / most))) : 0;
      }
    }
  });
}

struct Matrix {
  Tensor weight;
  int64_t hidden, inputs;
  bool is_float;
};
Matrix checked_matrix(const char* name, const Tensor& weight, int64_t directions, int64_t parts) {
  STD_TORCH_CHECK((directions == 1 || directions == 2) && (parts == 3 || parts == 4), name,
                  ": expected 1 or 2 directions and 3 or 4 parts, got ", directions, " and ", parts);
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(0) % (directions * parts) == 0 && weight.size(0) > 0 &&
                      weight.size(1) > 0,
                  name, ": weight must be (directions * parts * hidden, inputs), none of them 0, got ", shape(weight));
  const ScalarType dtype = weight.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::BFloat16, name,
                  ": weight must be float32 or bfloat16, got ", torch::headeronly::toString(dtype));
  return {torch::stable::contiguous(weight), weight.size(0) / (directions * parts), weight.size(1),
          dtype == ScalarType::Float};
}

Tensor pack_weight_cpu(Tensor weight, int64_t directions, int64_t parts) {
  const Matrix matrix = checked_matrix("sru_asr::pack_weight", weight, directions, parts);
  const int64_t hidden = matrix.hidden, inputs = matrix.inputs;
  const void* const from = matrix.weight.data_ptr();
  const int64_t size = (matrix.is_float ? packed_size32 : packed_size)(directions, parts, hidden, inputs);
  Tensor packed = torch::stable::new_empty(weight, {size});
  void* const to = packed.data_ptr();
  const int64_t pairs = directions * packed_pairs(parts, hidden);
  if (matrix.is_float)
    pack<float>(from, directions, parts, hidden, inputs, size / pairs, kTile, to);
  else
    pack<uint16_t>(from, directions, parts, hidden, inputs, size / pairs, kTileBytes / 2, to);
  return packed;
}

std::tuple<Tensor, Tensor> quantize_weight_cpu(Tensor weight, int64_t directions, int64_t parts) {
  const Matrix matrix = checked_matrix("sru_asr::quantize_weight", weight, directions, parts);
  STD_TORCH_CHECK(matrix.inputs <= kMostQuantizedInputs, "sru_asr::quantize_weight: weight must have at most ",
                  kMostQuantizedInputs, " inputs, got ", shape(weight));
  const void* const from = matrix.weight.data_ptr();
  Tensor packed = torch::stable::new_empty(weight, {packed_size8(directions, parts, matrix.hidden, matrix.inputs)},
                                           ScalarType::Char);
  Tensor scales = torch::stable::new_empty(weight, {directions * packed_pairs(parts, matrix.hidden) * 2 * kTile},
                                           ScalarType::Float);
  int8_t* const to = static_cast<int8_t*>(packed.data_ptr());
  float* const to_scales = static_cast<float*>(scales.data_ptr());
  if (matrix.is_float)
    quantize(static_cast<const float*>(from), directions, parts, matrix.hidden, matrix.inputs, to, to_scales);
  else
    quantize(static_cast<const uint16_t*>(from), directions, parts, matrix.hidden, matrix.inputs, to, to_scales);
  return {packed, scales};
}

// Runs the kernel over a few utterances at a time: their rows are packed once, then every group passes over them.
void run(Layer& layer) {
  thread_local Arena rows;
  const Kernels& variant = kernels();
  const LayerNeeds needs = variant.layer_needs(layer);
  const int64_t together = layer.frames < needs.rows ? needs.rows / layer.frames : 1;
  const int64_t tasks = layer.directions * groups(layer.hidden);
  for (layer.first = 0; layer.first < layer.batch; layer.first += together) {
    layer.utterances = layer.batch - layer.first < together ? layer.batch - layer.first : together;
    const int64_t row_groups = ceil_div(row_count(layer), needs.group_rows);
    layer.rows = rows.at_least(row_groups * needs.group_bytes);
    const Layer& now = layer;
    torch::stable::parallel_for(0, row_groups, ceil_div(64, needs.group_rows),
                                [&](int64_t begin, int64_t end) { variant.layer_pack(now, begin, end); });
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
      thread_local Arena scratch;
      variant.layer_run(now, begin, end, scratch.at_least(needs.scratch_bytes));
      scratch.done();
    });
  }
  rows.done();
}

std::tuple<Tensor, Tensor> layer_cpu(Tensor input, MaybeTensor x, Tensor weight, MaybeTensor scales, Tensor weight_c,
                                     Tensor bias, MaybeTensor initial_state, MaybeTensor lengths, double alpha,
                                     int64_t parts, int64_t chunk, int64_t lookahead) {
  const ScalarType dtype = input.scalar_type();
  const bool is_float = dtype == ScalarType::Float;
  STD_TORCH_CHECK(input.dim() == 3 && (is_float || dtype == ScalarType::BFloat16), kName,
                  ": input must be (batch, frames, inputs) of dtype Float or BFloat16, got ", shape(input), " of ",
                  torch::headeronly::toString(dtype));
  STD_TORCH_CHECK(parts == 3 || parts == 4, kName, ": parts must be 3 or 4, got ", parts);
  STD_TORCH_CHECK(weight_c.dim() == 3 && (weight_c.size(0) == 1 || weight_c.size(0) == 2), kName,
                  ": weight_c must be (1 or 2 directions, 2, hidden), got ", shape(weight_c));
  const int64_t batch = input.size(0), frames = input.size(1), inputs = input.size(2);
  const int64_t directions = weight_c.size(0), hidden = weight_c.size(2);
  STD_TORCH_CHECK(inputs > 0 && hidden > 0, kName, ": expected at least one input and one hidden unit, got ", inputs,
                  " and ", hidden);
  Arguments arguments{kName, x, weight_c, bias, initial_state, lengths, alpha, chunk, lookahead};
  Layer layer;
  static_cast<Problem&>(layer) = arguments.checked(input, directions, parts, hidden);
  arguments.check_lengths(layer);
  if (scales) {
    STD_TORCH_CHECK(!is_float, kName, ": input must be of dtype BFloat16 where weights are quantised, got Float");
    check(weight, arguments.name("weight"), "what quantize_weight made of (directions * parts * hidden, inputs)",
          {packed_size8(directions, parts, hidden, inputs)}, ScalarType::Char, input);
    check(*scales, arguments.name("scales"), "what quantize_weight made",
          {directions * packed_pairs(parts, hidden) * 2 * kTile}, ScalarType::Float, input);
  } else {
    check(weight, arguments.name("weight"), "what pack_weight made of (directions * parts * hidden, inputs)",
          {(is_float ? packed_size32 : packed_size)(directions, parts, hidden, inputs)}, dtype, input);
  }
  scales = contiguous(scales);
  input = dense(input);
  weight = torch::stable::contiguous(weight);

  Tensor h = torch::stable::new_empty(input, {batch, frames, directions, hidden}, dtype);
  Tensor final_state = torch::stable::new_empty(input, {batch, directions, hidden}, ScalarType::Float);
  layer.number = is_float ? Number::float32 : Number::bfloat16;
  layer.inputs = inputs;
  layer.input = Strided{input.data_ptr(), input.stride(0), input.stride(1)};
  layer.weight = weight.data_ptr();
  layer.scales = static_cast<const float*>(pointer(scales));
  layer.h = strided(h);
  layer.final_state = final_state.data_ptr();
  layer.states = nullptr;
  if (frames == 0) {
    if (arguments.initial)
      torch::stable::copy_(final_state, *arguments.initial);
    else
      torch::stable::zero_(final_state);
  } else if (batch > 0) {
    run(layer);
  }
  return {h, final_state};
}

}  // namespace
}  // namespace sru_asr

STABLE_TORCH_LIBRARY_FRAGMENT(sru_asr, m) {
  m.def("pack_weight(Tensor weight, int directions, int parts) -> Tensor");
  m.def("quantize_weight(Tensor weight, int directions, int parts) -> (Tensor, Tensor)");
  m.def(
      "fused_layer(Tensor input, Tensor? x, Tensor weight, Tensor? scales, Tensor weight_c, Tensor bias, "
      "Tensor? initial_state, Tensor? lengths, float alpha, int parts, int chunk, int lookahead) -> "
      "(Tensor h, Tensor final_state)");
}

STABLE_TORCH_LIBRARY_IMPL(sru_asr, CPU, m) {
  m.impl("pack_weight", TORCH_BOX(&sru_asr::pack_weight_cpu));
  m.impl("quantize_weight", TORCH_BOX(&sru_asr::quantize_weight_cpu));
  m.impl("fused_layer", TORCH_BOX(&sru_asr::layer_cpu));
}
