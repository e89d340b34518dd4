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

template <class Product>
struct FusedLayer {
  using Storage = typename Product::Storage;
  static constexpr bool kRough = sizeof(Storage) < sizeof(float);  // bfloat16
  static constexpr int N = kVectorBytes / sizeof(float);
  using V = Vector<float, N>;
  enum class Highway { none, input, part };

  static constexpr int64_t kBlockRows = kBlock / Product::kRows * Product::kRows;
  static constexpr int kProducts = Product::kInterleaved ? 2 : 1;  // one is walked over while the next comes about
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

  // Some vectors of columns from frame to frame: their states, in registers, and where the next frame lies.
  template <Highway kHighway, int kCount>
  struct Chains {
    static constexpr int64_t kPart = kStride * kTile;
    static constexpr int64_t kParts = kHighway == Highway::part ? 4 : 3;

    V c[kCount];
    float* now;                     // where the states are kept
    const float (*weights)[kGroup];
    int64_t column, width;          // the first one's, and how many there are
    float alpha;
    const float* u[kCount];
    const Storage* x;
    Storage* h;
    int64_t u_step, x_step, h_step;

    // One frame of one vector.
    SRU_ASR_INLINE void advance(int v) {
      const int64_t j = column + v * N;
      const int lanes = kCount > 1 ? N : static_cast<int>(width);
      Inputs<V> in;
      in.candidate = Lane<float, N>::load(u[v]);
      in.forget = Lane<float, N>::load(u[v] + kPart);
      in.reset = Lane<float, N>::load(u[v] + 2 * kPart);
      in.highway = V{};
      if constexpr (kHighway == Highway::part) in.highway = Lane<float, N>::load(u[v] + 3 * kPart) * alpha;
      if constexpr (kHighway == Highway::input) in.highway = load_lanes<N>(x + v * N, lanes) * alpha;
      const Weights<V> w = {Lane<float, N>::load(weights[0] + j), Lane<float, N>::load(weights[1] + j),
                            Lane<float, N>::load(weights[2] + j), Lane<float, N>::load(weights[3] + j)};
      store_lanes<N>(h + v * N, cell_forward<kRough>(in, w, c[v]), lanes);
      u[v] += u_step;
    }
    SRU_ASR_INLINE void next_frame() {
      if constexpr (kHighway == Highway::input) x += x_step;
      h += h_step;
    }
    SRU_ASR_INLINE void keep() const {
      for (int v = 0; v < kCount; ++v) Lane<float, N>::store(now + column + v * N, c[v]);
    }
  };

  // The recurrence over a block of rows of one group. It can be left between frames and taken up again.
  template <Highway kHighway>
  struct Walk {
    static constexpr int kTogether = 4;  // chains that hide each other's latency

    const FusedLayer* layer;
    int64_t direction, group;
    Chain* chain;
    const float* product;  // of row `base` and those behind it
    int64_t base;
    int64_t row, left;  // the next row, and how many there are, upwards or downwards
    int64_t run = 0;    // how many of them need the same, from this frame on
    int64_t utterance = 0, frame = 0;
    bool valid = false, in_chunk = false;

    const Layer& args() const { return layer->args; }
    int64_t step() const { return direction == 0 ? 1 : -1; }
    int64_t columns() const {
      const int64_t units = args().hidden - group * kGroup;
      return units < kGroup ? units : kGroup;
    }
    Storage* at(const Strided& tensor, int64_t ahead = 0) const {
      return static_cast<Storage*>(tensor.data) + utterance * tensor.batch + (frame + ahead) * tensor.frame +
             direction * tensor.direction + group * kGroup;
    }
    float* outer_state(const void* data) const {
      return const_cast<float*>(static_cast<const float*>(data)) +
             (utterance * args().directions + direction) * args().hidden + group * kGroup;
    }
    void start(float* state) const {
      const float* from = args().initial ? outer_state(args().initial) : nullptr;
      for (int64_t j = 0; j < kGroup; ++j) state[j] = from && j < columns() ? from[j] : 0;
    }
    void finish(const float* state) const {
      float* to = outer_state(args().final_state);
      for (int64_t j = 0; j < columns(); ++j) to[j] = state[j];
    }
    static void copy(float* to, const float* from) { __builtin_memcpy(to, from, sizeof(float) * kGroup); }

    // Walks over all that are left, run by run.
    void finish_all() {
      while (left > 0) {
        if (run == 0) open();
        valid ? vectors(run) : clear(run);
        pass(run);
      }
    }
    // How many of the next `most` frames `together` can take; clears rows behind an utterance's end on the way.
    int64_t ready(int64_t most) {
      while (left > 0 && columns() == kTogether * N) {
        if (run == 0) open();
        if (valid) return run < most ? run : most;
        clear(run);
        pass(run);
      }
      return 0;
    }
    SRU_ASR_INLINE Chains<kHighway, kTogether> together() const { return chains<kTogether>(0, kTogether * N); }

    // A run is rows that need the same: all within one part of a window, in this block.
    void open() { direction == 0 ? open_upwards() : open_downwards(); }
    void pass(int64_t count) {
      left -= count, run -= count, row += count * step(), frame += count * step();
      if (run == 0) direction == 0 ? close_upwards() : close_downwards();
    }
    void open_upwards() {
      utterance = args().first + row / args().frames, frame = row % args().frames;
      const int64_t window = frame / layer->size(), i = frame % layer->size();
      const int64_t length = layer->window_length(utterance, window);
      if (frame == 0) start(chain->main);
      if (i == 0) copy(chain->now, chain->main);
      valid = i < length;
      in_chunk = i < args().chunk;
      const int64_t end = !valid ? layer->size() : in_chunk && args().chunk < length ? args().chunk : length;
      run = end - i < left ? end - i : left;
    }
    void close_upwards() {
      // Too often rather than too seldom: within a chunk this is the state so far.
      if (valid && in_chunk) copy(chain->main, chain->now);
      if (frame == args().frames) finish(chain->main);
    }
    void open_downwards() {
      utterance = args().first + row / args().frames, frame = row % args().frames;
      const int64_t window = frame / layer->size(), i = frame % layer->size();
      const int64_t length = layer->window_length(utterance, window);
      if (i == layer->size() - 1) start(chain->now);
      valid = i < length;
      const int64_t count = valid ? i + 1 : i + 1 - length;
      run = count < left ? count : left;
    }
    void close_downwards() {
      // The whole first window is behind us; the next row is another utterance's.
      if (frame == -1) finish(chain->now);
    }

    void clear(int64_t count) const {
      for (int64_t n = 0; n < count; ++n)
        __builtin_memset(at(args().h, n * step()), 0, columns() * sizeof(Storage));
    }
    void vectors(int64_t count) const {
      int64_t j = 0;
      for (; j + kTogether * N <= columns(); j += kTogether * N)
        frames(chains<kTogether>(j, kTogether * N), count);
      for (; j < columns(); j += N) frames(chains<1>(j, columns() - j < N ? columns() - j : N), count);
    }
    // kCount vectors of columns from `column` on, of which `width` columns are there.
    template <int kCount>
    SRU_ASR_INLINE Chains<kHighway, kCount> chains(int64_t column, int64_t width) const {
      using Some = Chains<kHighway, kCount>;
      Some some;
      some.now = chain->now, some.weights = chain->weights, some.column = column, some.width = width;
      some.alpha = static_cast<float>(args().alpha);
      for (int v = 0; v < kCount; ++v) {
        const int64_t j = column + v * N;
        some.c[v] = Lane<float, N>::load(chain->now + j);
        some.u[v] = product + j / kTile * Some::kParts * Some::kPart + (row - base) * kTile + j % kTile;
      }
      some.x = kHighway == Highway::input ? at(args().x) + column : nullptr;
      some.h = at(args().h) + column;
      some.u_step = step() * kTile, some.x_step = step() * args().x.frame, some.h_step = step() * args().h.frame;
      return some;
    }
    template <int kCount>
    static SRU_ASR_INLINE void frames(Chains<kHighway, kCount> some, int64_t count) {
      for (int64_t n = 0; n < count; ++n) {
#pragma GCC unroll 4
        for (int v = 0; v < kCount; ++v) some.advance(v);
        some.next_frame();
      }
      some.keep();
    }
  };

  static int64_t row_group_bytes(int64_t inputs) { return Product::packed_bytes(inputs); }
  static int64_t padded(int64_t inputs) { return ceil_div(inputs, Product::kDepth) * Product::kDepth; }

  // Packs the row groups [begin, end) of the utterances at hand.
  void pack(int64_t begin, int64_t end) const {
    for (int64_t g = begin; g < end; ++g) {
      const Storage* from[Product::kRows];
      for (int64_t i = 0; i < Product::kRows; ++i) {
        const int64_t row = g * Product::kRows + i;
        from[i] = row < row_count(args) ? static_cast<const Storage*>(args.input.data) +
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
    if (args.parts == 4) return run_with<Highway::part>(begin, end, scratch);
    if (args.x.data) return run_with<Highway::input>(begin, end, scratch);
    run_with<Highway::none>(begin, end, scratch);
  }
  template <Highway kHighway>
  void run_with(int64_t begin, int64_t end, void* scratch) const {
    [[maybe_unused]] const typename Product::Session session;
    float* const products = static_cast<float*>(scratch);
    Chain* const chains = reinterpret_cast<Chain*>(products + kProducts * kProduct);
    const int64_t per_direction = groups(args.hidden);
    for (int64_t n = begin; n < end; ++n) load_weights(n / per_direction, n % per_direction, chains[n - begin]);

    const int64_t inputs = padded(args.inputs);
    const int64_t block_bytes = kBlockRows / Product::kRows * row_group_bytes(args.inputs);
    const int64_t blocks = ceil_div(row_count(args), kBlockRows);
    const int64_t together = kKeptBytes < block_bytes ? 1 : kKeptBytes / block_bytes;
    for (int64_t direction = begin / per_direction; direction * per_direction < end; ++direction) {
      const int64_t first = begin > direction * per_direction ? begin : direction * per_direction;
      const int64_t last = end < (direction + 1) * per_direction ? end : (direction + 1) * per_direction;
      float* product = products;
      Walk<kHighway> behind{this, direction, 0, nullptr, nullptr, 0, 0, 0};  // over nothing yet
      for (int64_t done = 0; done < blocks; done += together)
        for (int64_t n = first; n < last; ++n)
          for (int64_t i = done; i < done + together && i < blocks; ++i) {
            const int64_t block = direction == 0 ? i : blocks - 1 - i;
            const int64_t base = block * kBlockRows;
            const int64_t rows = row_count(args) - base < kBlockRows ? row_count(args) - base : kBlockRows;
            multiply(direction, n % per_direction, base, rows, inputs, product, behind);
            behind.finish_all();
            behind = {this, direction, n % per_direction, chains + (n - begin), product, base,
                      direction == 0 ? base : base + rows - 1, rows};
            if (kProducts == 1) behind.finish_all();
            product = product == products ? products + (kProducts - 1) * kProduct : products;
          }
      behind.finish_all();
    }
  }

  // The product of those of `rows` rows from `base` on that some utterance has.
  // Meanwhile `behind` walks over another product.
  template <class Behind>
  void multiply(int64_t direction, int64_t group, int64_t base, int64_t rows, int64_t inputs, float* product,
                Behind& behind) const {
    const int64_t pairs = group_pairs(args.parts, args.hidden, group);
    const int64_t before = direction * packed_pairs(args.parts, args.hidden) + group * group_pairs(args.parts, kGroup, 0);
    const auto* weight = static_cast<const typename Product::Weight*>(args.weight) + before * inputs * 2 * kTile;
    const float* scales = args.scales ? args.scales + before * 2 * kTile : nullptr;
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
        Product::multiply(from, to - g, weight, scales, pairs, inputs, product + g * Product::kRows * kTile, behind);
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

  LayerNeeds needs() const {
    constexpr int64_t kRowsTogether = 512;
    return {kRowsTogether, Product::kRows, row_group_bytes(args.inputs),
            static_cast<int64_t>(kProducts * kProduct * sizeof(float) + args.directions * groups(args.hidden) * sizeof(Chain))};
  }
};

// Calls body with the kernel that a layer's numbers ask for.
template <class Body>
auto with_layer(const Layer& args, Body body) {
  if (args.scales) return body(FusedLayer<Product8>{args});
  if (args.number == Number::float32) return body(FusedLayer<VectorProduct32>{args});
  return body(FusedLayer<Product16>{args});
}

LayerNeeds layer_needs(const Layer& args) {
  return with_layer(args, [](const auto& layer) { return layer.needs(); });
}
void layer_pack(const Layer& args, int64_t begin, int64_t end) {
  with_layer(args, [=](const auto& layer) { layer.pack(begin, end); });
}
void layer_run(const Layer& args, int64_t begin, int64_t end, void* scratch) {
  with_layer(args, [=](const auto& layer) { layer.run(begin, end, scratch); });
}

}  // namespace
}  // namespace sru_asr::SRU_ASR_VARIANT
