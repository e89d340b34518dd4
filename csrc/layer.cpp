// A layer in one pass as an operator, and the packing of its weights: schema, checks, allocation.
#include "layer.h"

#include "arguments.h"

namespace sru_asr {
namespace {

constexpr const char* kName = "sru_asr::layer";

// Scratch that a thread keeps for its next call: fresh pages would cost more than many a layer does.
struct Arena {
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
};

struct Half {
  static uint16_t from(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return x == x ? (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16 : (bits >> 16) | 0x40u;
  }
  static uint16_t from(uint16_t x) { return x; }
};

// One tile of 16 columns and its inputs, which lie `stride` apart from column to column; null for a tile of zeros.
template <class Weight>
void pack_tile(const Weight* from, int64_t columns, int64_t inputs, uint16_t* to) {
  for (int64_t k = 0; k < padded_inputs(inputs); ++k)
    for (int64_t j = 0; j < kTile; ++j)
      to[k / kDepth * kTileBytes + k % kDepth / 2 * 2 * kTile + 2 * j + k % 2] =
          j < columns && k < inputs ? Half::from(from[j * inputs + k]) : 0;
}
void pack_tile(const float* from, int64_t columns, int64_t inputs, float* to) {
  for (int64_t k = 0; k < padded_inputs(inputs); ++k)
    for (int64_t j = 0; j < kTile; ++j) to[k * 2 * kTile + j] = j < columns && k < inputs ? from[j * inputs + k] : 0;
}

template <class Weight, class Packed>
void pack(const Weight* weight, int64_t directions, int64_t parts, int64_t hidden, int64_t inputs, Packed* packed) {
  const int64_t pair_size = padded_inputs(inputs) * 2 * kTile;
  const int64_t tile_offset = sizeof(Packed) == 2 ? kTileBytes / 2 : kTile;
  torch::stable::parallel_for(0, directions * groups(hidden), 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t direction = n / groups(hidden), group = n % groups(hidden);
      const int64_t before = direction * packed_pairs(parts, hidden) + group * group_pairs(parts, kGroup, 0);
      const int64_t tiles = group_tiles(parts, hidden, group);
      for (int64_t tile = 0; tile < 2 * group_pairs(parts, hidden, group); ++tile) {
        const int64_t unit = group * kGroup + tile / parts * kTile;
        const int64_t row = (direction * parts + tile % parts) * hidden + unit;
        const int64_t columns = tile < tiles ? (hidden - unit < kTile ? hidden - unit : kTile) : 0;
        pack_tile(weight + (columns ? row * inputs : 0), columns, inputs,
                  packed + (before + tile / 2) * pair_size + tile % 2 * tile_offset);
      }
    }
  });
}

Tensor pack_weight_cpu(Tensor weight, int64_t directions, int64_t parts, bool to_bfloat16) {
  constexpr const char* name = "sru_asr::pack_weight";
  STD_TORCH_CHECK((directions == 1 || directions == 2) && (parts == 3 || parts == 4), name,
                  ": expected 1 or 2 directions and 3 or 4 parts, got ", directions, " and ", parts);
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(0) % (directions * parts) == 0, name,
                  ": weight must be (directions * parts * hidden, inputs), got ", shape(weight));
  const ScalarType dtype = weight.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || (dtype == ScalarType::BFloat16 && to_bfloat16), name,
                  ": weight must be float32, or bfloat16 to be packed as such, got ", torch::headeronly::toString(dtype));
  weight = torch::stable::contiguous(weight);
  const int64_t hidden = weight.size(0) / (directions * parts), inputs = weight.size(1);
  Tensor packed = torch::stable::new_empty(weight, {packed_size(directions, parts, hidden, inputs)},
                                           to_bfloat16 ? ScalarType::BFloat16 : ScalarType::Float);
  void* const to = packed.data_ptr();
  const void* const from = weight.data_ptr();
  if (!to_bfloat16)
    pack(static_cast<const float*>(from), directions, parts, hidden, inputs, static_cast<float*>(to));
  else if (dtype == ScalarType::Float)
    pack(static_cast<const float*>(from), directions, parts, hidden, inputs, static_cast<uint16_t*>(to));
  else
    pack(static_cast<const uint16_t*>(from), directions, parts, hidden, inputs, static_cast<uint16_t*>(to));
  return packed;
}

// Runs the kernel over a few utterances at a time: their rows are packed once, then every group passes over them.
void run(Number number, Layer& layer) {
  thread_local Arena rows;
  const Kernels& variant = kernels();
  const LayerNeeds needs = variant.layer_needs(number, layer);
  const int64_t together = layer.frames < needs.rows ? needs.rows / layer.frames : 1;
  const int64_t tasks = layer.directions * groups(layer.hidden);
  for (layer.first = 0; layer.first < layer.batch; layer.first += together) {
    layer.utterances = layer.batch - layer.first < together ? layer.batch - layer.first : together;
    const int64_t row_groups = ceil_div(row_count(layer), needs.group_rows);
    layer.rows = rows.at_least(row_groups * needs.group_bytes);
    const Layer& now = layer;
    torch::stable::parallel_for(0, row_groups, ceil_div(64, needs.group_rows),
                                [&](int64_t begin, int64_t end) { variant.layer_pack(number, now, begin, end); });
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
      thread_local Arena scratch;
      variant.layer_run(number, now, begin, end, scratch.at_least(needs.scratch_bytes));
    });
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> layer_cpu(Tensor input, MaybeTensor x, Tensor weight, Tensor weight_c,
                                                     Tensor bias, MaybeTensor initial_state, MaybeTensor lengths,
                                                     double alpha, int64_t parts, int64_t chunk, int64_t lookahead,
                                                     bool keep) {
  const ScalarType dtype = input.scalar_type();
  STD_TORCH_CHECK(input.dim() == 3 && (dtype == ScalarType::Float || dtype == ScalarType::BFloat16), kName,
                  ": input must be (batch, frames, inputs) of dtype Float or BFloat16, got ", shape(input), " of ",
                  torch::headeronly::toString(dtype));
  STD_TORCH_CHECK(parts == 3 || parts == 4, kName, ": parts must be 3 or 4, got ", parts);
  STD_TORCH_CHECK(weight_c.dim() == 3 && (weight_c.size(0) == 1 || weight_c.size(0) == 2), kName,
                  ": weight_c must be (1 or 2 directions, 2, hidden), got ", shape(weight_c));
  const int64_t batch = input.size(0), frames = input.size(1), inputs = input.size(2);
  const int64_t directions = weight_c.size(0), hidden = weight_c.size(2);
  Arguments arguments{kName, x, weight_c, bias, initial_state, lengths, alpha, chunk, lookahead};
  Layer layer;
  static_cast<Problem&>(layer) = arguments.checked(input, directions, parts, hidden);
  arguments.check_lengths(layer);
  check(weight, arguments.name("weight"), "what pack_weight made of (directions * parts * hidden, inputs)",
        {packed_size(directions, parts, hidden, inputs)}, dtype, input);
  input = dense(input);
  weight = torch::stable::contiguous(weight);

  Tensor h = torch::stable::new_empty(input, {batch, frames, directions, hidden}, dtype);
  Tensor final_state = torch::stable::new_empty(input, {batch, directions, hidden}, ScalarType::Float);
  Tensor u = torch::stable::new_empty(input, {keep ? batch : 0, frames, directions, parts, hidden}, dtype);
  Tensor states = torch::stable::new_empty(input, {keep ? batch : 0, frames, directions, hidden}, ScalarType::Float);
  layer.inputs = inputs;
  layer.input = Strided{input.data_ptr(), input.stride(0), input.stride(1)};
  layer.weight = weight.data_ptr();
  layer.h = strided(h);
  layer.final_state = final_state.data_ptr();
  layer.u = keep ? strided(u) : Strided();
  layer.states = keep ? states.data_ptr() : nullptr;
  if (frames == 0) {
    if (arguments.initial)
      torch::stable::copy_(final_state, *arguments.initial);
    else
      torch::stable::zero_(final_state);
  } else if (batch > 0 && hidden > 0) {
    run(dtype == ScalarType::Float ? Number::float32 : Number::bfloat16, layer);
  }
  return {h, final_state, u, states};
}

}  // namespace
}  // namespace sru_asr

STABLE_TORCH_LIBRARY_FRAGMENT(sru_asr, m) {
  m.def("pack_weight(Tensor weight, int directions, int parts, bool to_bfloat16) -> Tensor");
  m.def(
      "layer(Tensor input, Tensor? x, Tensor weight, Tensor weight_c, Tensor bias, Tensor? initial_state, "
      "Tensor? lengths, float alpha, int parts, int chunk, int lookahead, bool keep) -> "
      "(Tensor h, Tensor final_state, Tensor u, Tensor states)");
}

STABLE_TORCH_LIBRARY_IMPL(sru_asr, CPU, m) {
  m.impl("pack_weight", TORCH_BOX(&sru_asr::pack_weight_cpu));
  m.impl("layer", TORCH_BOX(&sru_asr::layer_cpu));
}
