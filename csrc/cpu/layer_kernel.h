// A layer in one pass on a CPU: the product of a block of frames with a group of columns stays in L2, where the
// recurrence picks it up; it is not written out.
//
// Included once per instruction set, like recurrence_kernel.h.
#pragma once

#include "../simd.h"

#include "../cell.h"  // after simd.h, which has its gates()
#include "product.h"

namespace sru_asr::SRU_ASR_VARIANT {
namespace {

struct FusedLayer {
  static constexpr int N = kVectorBytes / sizeof(float);
  using V = Vector<float, N>;
  enum class Highway { none, input, part };

  static constexpr int64_t kBlockRows = kBlock / Product::kRows * Product::kRows;
  static constexpr int64_t kKeptBytes = 1 << 19;  // of rows, for all groups to pass over while they stay in L2

  // What a group of columns carries from frame to frame, padded with zeros to a whole group.
  struct alignas(64) Chain {
    float weights[4][kGroup];  // v_forget, v_reset, b_forget, b_reset
    float main[kGroup];        // the state after the last chunk
    float now[kGroup];         // the state after the last frame
  };

  const Layer& args;

  int64_t size() const { return args.chunk + args.lookahead; }
  // Frames of a window that lie within the utterance.
  int64_t window_length(int64_t utterance, int64_t window) const {
    const int64_t length = args.lengths ? args.lengths[utterance] : args.windows * args.chunk + args.lookahead;
    const int64_t left = length - window * args.chunk;
    return left < 0 ? 0 : left < size() ? left : size();
  }

  // The recurrence over a block of rows of one group.
  struct Walk {
    const FusedLayer& layer;
    const Layer& args;
    int64_t direction, group;
    Chain* chain;
    const float* product;  // of row `base` and those behind it
    int64_t base;
    int64_t row, left;  // the next row, and how many there are, upwards or downwards
    int64_t run = 0;    // how many of them need the same, from this frame on
    int64_t utterance = 0, frame = 0;
    bool valid = false, in_chunk = false;

    int64_t columns() const {
      const int64_t units = args.hidden - group * kGroup;
      return units < kGroup ? units : kGroup;
    }
    bfloat16* at(const Strided& tensor, int64_t ahead = 0) const {
      return static_cast<bfloat16*>(tensor.data) + utterance * tensor.batch + (frame + ahead) * tensor.frame +
             direction * tensor.direction + group * kGroup;
    }
    float* outer_state(const void* data) const {
      return const_cast<float*>(static_cast<const float*>(data)) +
             (utterance * args.directions + direction) * args.hidden + group * kGroup;
    }
    void start(float* state) const {
      const float* from = args.initial ? outer_state(args.initial) : nullptr;
      for (int64_t j = 0; j < kGroup; ++j) state[j] = from && j < columns() ? from[j] : 0;
    }
    void finish(const float* state) const {
      float* to = outer_state(args.final_state);
      for (int64_t j = 0; j < columns(); ++j) to[j] = state[j];
    }
    static void copy(float* to, const float* from) { __builtin_memcpy(to, from, sizeof(float) * kGroup); }

    // Walks over all of them, run by run.
    void advance() {
      const int64_t step = direction == 0 ? 1 : -1;
      while (left > 0) {
        direction == 0 ? open_upwards() : open_downwards();
        valid ? frames(run, step) : clear(run, step);
        left -= run, row += run * step, frame += run * step;
        direction == 0 ? close_upwards() : close_downwards();
      }
    }

    // A run is rows that need the same: all within one part of a window, in this block.
    void open_upwards() {
      utterance = args.first + row / args.frames, frame = row % args.frames;
      const int64_t window = frame / layer.size(), i = frame % layer.size();
      const int64_t length = layer.window_length(utterance, window);
      if (frame == 0) start(chain->main);
      if (i == 0) copy(chain->now, chain->main);
      valid = i < length;
      in_chunk = i < args.chunk;
      const int64_t end = !valid ? layer.size() : in_chunk && args.chunk < length ? args.chunk : length;
      run = end - i < left ? end - i : left;
    }
    void close_upwards() {
      // Too often rather than too seldom: within a chunk this is the state so far.
      if (valid && in_chunk) copy(chain->main, chain->now);
      if (frame == args.frames) finish(chain->main);
    }
    void open_downwards() {
      utterance = args.first + row / args.frames, frame = row % args.frames;
      const int64_t window = frame / layer.size(), i = frame % layer.size();
      const int64_t length = layer.window_length(utterance, window);
      if (i == layer.size() - 1) start(chain->now);
      valid = i < length;
      const int64_t count = valid ? i + 1 : i + 1 - length;
      run = count < left ? count : left;
    }
    void close_downwards() {
      // The whole first window is behind us; the next row is another utterance's.
      if (frame == -1) finish(chain->now);
    }

    void clear(int64_t count, int64_t step) const {
      for (int64_t n = 0; n < count; ++n)
        __builtin_memset(at(args.h, n * step), 0, columns() * sizeof(bfloat16));
    }
    void frames(int64_t count, int64_t step) const {
      if (args.parts == 4) return vectors<Highway::part>(count, step);
      if (args.x.data) return vectors<Highway::input>(count, step);
      return vectors<Highway::none>(count, step);
    }
    template <Highway kHighway>
    void vectors(int64_t count, int64_t step) const {
      constexpr int kTogether = 4;  // chains that hide each other's latency
      int64_t j = 0;
      for (; j + kTogether * N <= columns(); j += kTogether * N)
        chains<kHighway, kTogether>(j, kTogether * N, count, step);
      for (; j < columns(); j += N)
        chains<kHighway, 1>(j, columns() - j < N ? columns() - j : N, count, step);
    }

    // kCount vectors of columns from `column` on, of which `width` columns are there.
    template <Highway kHighway, int kCount>
    void chains(int64_t column, int64_t width, int64_t count, int64_t step) const {
      constexpr int64_t kPart = kStride * kTile;
      constexpr int64_t kParts = kHighway == Highway::part ? 4 : 3;
      const auto lanes = [&](int v) { return kCount > 1 ? N : static_cast<int>(width) - v * N; };
      const float alpha = static_cast<float>(args.alpha);
      V c[kCount];
      const float* u[kCount];
      for (int v = 0; v < kCount; ++v) {
        const int64_t j = column + v * N;
        c[v] = Lane<float, N>::load(chain->now + j);
        u[v] = product + j / kTile * kParts * kPart + (row - base) * kTile + j % kTile;
      }
      const bfloat16* x = kHighway == Highway::input ? at(args.x) + column : nullptr;
      bfloat16* h = at(args.h) + column;
      const float(*weights)[kGroup] = chain->weights;
      for (int64_t n = 0; n < count; ++n) {
#pragma GCC unroll 4
        for (int v = 0; v < kCount; ++v) {
          const int64_t j = column + v * N;
          const float* const here = u[v] + n * step * kTile;
          Inputs<V> in;
          in.candidate = Lane<float, N>::load(here);
          in.forget = Lane<float, N>::load(here + kPart);
          in.reset = Lane<float, N>::load(here + 2 * kPart);
          in.highway = V{};
          if constexpr (kHighway == Highway::part) in.highway = Lane<float, N>::load(here + 3 * kPart) * alpha;
          if constexpr (kHighway == Highway::input) in.highway = load(x + v * N, lanes(v)) * alpha;
          const Weights<V> w = {Lane<float, N>::load(weights[0] + j), Lane<float, N>::load(weights[1] + j),
                                Lane<float, N>::load(weights[2] + j), Lane<float, N>::load(weights[3] + j)};
          const V out = cell_forward(in, w, c[v]);
          store(h + v * N, out, lanes(v));
        }
        if (kHighway == Highway::input) x += step * args.x.frame;
        h += step * args.h.frame;
      }
      for (int v = 0; v < kCount; ++v) Lane<float, N>::store(chain->now + column + v * N, c[v]);
    }

    static SRU_ASR_INLINE V load(const bfloat16* from, int count) {
      if (__builtin_expect(count == N, 1)) return Lane<bfloat16, N>::load(from);
      bfloat16 padded_row[N] = {};
      for (int i = 0; i < count; ++i) padded_row[i] = from[i];
      return Lane<bfloat16, N>::load(padded_row);
    }
    static SRU_ASR_INLINE void store(bfloat16* to, const V& v, int count) {
      if (__builtin_expect(count == N, 1)) return Lane<bfloat16, N>::store(to, v);
      bfloat16 padded_row[N];
      Lane<bfloat16, N>::store(padded_row, v);
      for (int i = 0; i < count; ++i) to[i] = padded_row[i];
    }
  };

  static int64_t row_group_bytes(int64_t inputs) { return Product::packed_bytes(inputs); }

  // Packs the row groups [begin, end) of the utterances at hand.
  void pack(int64_t begin, int64_t end) const {
    for (int64_t g = begin; g < end; ++g) {
      const bfloat16* from[Product::kRows];
      for (int64_t i = 0; i < Product::kRows; ++i) {
        const int64_t row = g * Product::kRows + i;
        from[i] = row < row_count(args) ? static_cast<const bfloat16*>(args.input.data) +
                                               (args.first + row / args.frames) * args.input.batch +
                                               row % args.frames * args.input.frame
                                         : nullptr;
      }
      Product::pack(static_cast<char*>(args.rows) + g * row_group_bytes(args.inputs), from, args.inputs);
    }
  }

  // Whether any of the rows [begin, end) lies within its utterance.
  bool any_valid(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end;) {
      const int64_t frame = row % args.frames, i = frame % size();
      if (i < window_length(args.first + row / args.frames, frame / size())) return true;
      row += size() - i;
    }
    return false;
  }

  // The groups [begin, end), counted through both directions.
  void run(int64_t begin, int64_t end, void* scratch) const {
    [[maybe_unused]] const Product::Session session;
    float* const product = static_cast<float*>(scratch);
    Chain* const chains = reinterpret_cast<Chain*>(product + kProduct);
    const int64_t per_direction = groups(args.hidden);
    for (int64_t n = begin; n < end; ++n) load_weights(n / per_direction, n % per_direction, chains[n - begin]);

    const int64_t inputs = padded_inputs(args.inputs);
    const int64_t block_bytes = kBlockRows / Product::kRows * row_group_bytes(args.inputs);
    const int64_t blocks = ceil_div(row_count(args), kBlockRows);
    const int64_t together = kKeptBytes < block_bytes ? 1 : kKeptBytes / block_bytes;
    for (int64_t direction = begin / per_direction; direction * per_direction < end; ++direction) {
      const int64_t first = begin > direction * per_direction ? begin : direction * per_direction;
      const int64_t last = end < (direction + 1) * per_direction ? end : (direction + 1) * per_direction;
      for (int64_t done = 0; done < blocks; done += together)
        for (int64_t n = first; n < last; ++n)
          for (int64_t i = done; i < done + together && i < blocks; ++i) {
            const int64_t block = direction == 0 ? i : blocks - 1 - i;
            const int64_t base = block * kBlockRows;
            const int64_t rows = row_count(args) - base < kBlockRows ? row_count(args) - base : kBlockRows;
            multiply(direction, n % per_direction, base, rows, inputs, product);
            Walk{*this, args, direction, n % per_direction, chains + (n - begin), product, base,
                 direction == 0 ? base : base + rows - 1, rows}
                .advance();
          }
    }
  }

  // The product of those of `rows` rows from `base` on that some utterance has.
  void multiply(int64_t direction, int64_t group, int64_t base, int64_t rows, int64_t inputs, float* product) const {
    const int64_t pairs = group_pairs(args.parts, args.hidden, group);
    const int64_t before = direction * packed_pairs(args.parts, args.hidden) + group * group_pairs(args.parts, kGroup, 0);
    const bfloat16* weight = static_cast<const bfloat16*>(args.weight) + before * inputs * 2 * kTile;
    const int64_t row_groups = ceil_div(rows, Product::kRows);
    const auto valid = [&](int64_t g) {
      const int64_t to = base + (g + 1) * Product::kRows;
      return any_valid(base + g * Product::kRows, to < base + rows ? to : base + rows);
    };
    for (int64_t g = 0; g < row_groups;) {
      int64_t to = g;
      while (to < row_groups && valid(to)) ++to;
      if (to > g) {
        const char* from =
            static_cast<const char*>(args.rows) + (base / Product::kRows + g) * row_group_bytes(args.inputs);
        Product::multiply(from, to - g, weight, pairs, inputs, product + g * Product::kRows * kTile);
      }
      g = to + 1;
    }
  }

  void load_weights(int64_t direction, int64_t group, Chain& chain) const {
    for (int64_t part = 0; part < 4; ++part) {
      const float* from = static_cast<const float*>(part < 2 ? args.weight_c : args.bias) +
                          (direction * 2 + part % 2) * args.hidden + group * kGroup;
      for (int64_t j = 0; j < kGroup; ++j) chain.weights[part][j] = group * kGroup + j < args.hidden ? from[j] : 0;
    }
  }

  static LayerNeeds needs(const Layer& args) {
    constexpr int64_t kRowsTogether = 512;
    return {kRowsTogether, Product::kRows, row_group_bytes(args.inputs),
            static_cast<int64_t>(kProduct * sizeof(float) + args.directions * groups(args.hidden) * sizeof(Chain))};
  }
};

LayerNeeds layer_needs(const Layer& args) { return FusedLayer::needs(args); }
void layer_pack(const Layer& args, int64_t begin, int64_t end) { FusedLayer{args}.pack(begin, end); }
void layer_run(const Layer& args, int64_t begin, int64_t end, void* scratch) { FusedLayer{args}.run(begin, end, scratch); }

}  // namespace
}  // namespace sru_asr::SRU_ASR_VARIANT
