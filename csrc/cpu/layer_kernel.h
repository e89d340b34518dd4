// A layer in one pass on a CPU: the product of a block of frames with a group of columns stays in L2, where the
// recurrence picks it up; it is never written out. While one block is multiplied, the recurrence walks over the block
// before it: tile instructions leave the vector units free.
//
// Included once per instruction set, like recurrence_kernel.h.
#pragma once

#include "../simd.h"

#include "../cell.h"  // after simd.h, which has its gates()
#include "product.h"

namespace sru_asr::SRU_ASR_VARIANT {
namespace {

template <class Storage>
struct FusedLayer {
  using Product = typename ProductOf<Storage>::type;
  static constexpr int N = kVectorBytes / sizeof(float);
  using V = Vector<float, N>;
  enum class Highway { none, input, part };

  static constexpr int64_t kBlockRows = kBlock / Product::kRows * Product::kRows;
  static constexpr int64_t kKeptBytes = 1 << 20;  // of rows, for all groups to pass over while they stay in L2

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

  // The recurrence over a block of rows of one group, a few rows at a time.
  struct Walk {
    const FusedLayer& layer;
    const Layer& args;
    int64_t direction, group;
    Chain* chain;
    const float* product;  // of row `base` and those behind it
    int64_t base;
    int64_t row, left;  // the next row, and how many there are, upwards or downwards

    int64_t columns() const {
      const int64_t units = args.hidden - group * kGroup;
      return units < kGroup ? units : kGroup;
    }
    template <class T>
    T* at(const Strided& tensor, int64_t utterance, int64_t frame) const {
      return static_cast<T*>(tensor.data) + utterance * tensor.batch + frame * tensor.frame +
             direction * tensor.direction + group * kGroup;
    }
    float* outer_state(const void* data, int64_t utterance) const {
      return const_cast<float*>(static_cast<const float*>(data)) +
             (utterance * args.directions + direction) * args.hidden + group * kGroup;
    }
    void start(float* state, int64_t utterance) const {
      const float* from = args.initial ? outer_state(args.initial, utterance) : nullptr;
      for (int64_t j = 0; j < kGroup; ++j) state[j] = from && j < columns() ? from[j] : 0;
    }
    void finish(const float* state, int64_t utterance) const {
      float* to = outer_state(args.final_state, utterance);
      for (int64_t j = 0; j < columns(); ++j) to[j] = state[j];
    }
    static void copy(float* to, const float* from) { __builtin_memcpy(to, from, sizeof(float) * kGroup); }

    // Walks over `count` rows, or those that are left.
    void advance(int64_t count) {
      count = count < left ? count : left;
      while (count > 0) {
        const int64_t done = direction == 0 ? upwards(count) : downwards(count);
        count -= done;
        left -= done;
        row += direction == 0 ? done : -done;
      }
    }

    // Each walks over one to `count` rows that need the same: all within one part of a window.
    int64_t upwards(int64_t count) const {
      const int64_t utterance = args.first + row / args.frames, frame = row % args.frames;
      const int64_t window = frame / layer.size(), i = frame % layer.size();
      const int64_t valid = layer.window_length(utterance, window);
      if (frame == 0) start(chain->now, utterance), copy(chain->main, chain->now);
      if (i == 0) copy(chain->now, chain->main);
      const int64_t end = i < valid ? (i < args.chunk && args.chunk < valid ? args.chunk : valid) : layer.size();
      count = count < end - i ? count : end - i;
      if (i < valid) {
        frames(utterance, frame, count, 1);
        if (i < args.chunk && i + count >= (args.chunk < valid ? args.chunk : valid)) copy(chain->main, chain->now);
      } else {
        clear(utterance, frame, count);
      }
      if (frame + count == args.frames) finish(chain->main, utterance);
      return count;
    }
    int64_t downwards(int64_t count) const {
      const int64_t utterance = args.first + row / args.frames, frame = row % args.frames;
      const int64_t window = frame / layer.size(), i = frame % layer.size();
      const int64_t valid = layer.window_length(utterance, window);
      const int64_t here = i < valid ? i + 1 : i + 1 - valid;
      count = count < here ? count : here;
      if (i == layer.size() - 1) start(chain->now, utterance);
      if (i < valid)
        frames(utterance, frame, count, -1);
      else
        clear(utterance, frame - count + 1, count);
      if (window == 0 && i - count + 1 == 0) finish(chain->now, utterance);
      return count;
    }

    void clear(int64_t utterance, int64_t frame, int64_t count) const {
      for (int64_t t = frame; t < frame + count; ++t) {
        __builtin_memset(at<Storage>(args.h, utterance, t), 0, columns() * sizeof(Storage));
        if (args.states) __builtin_memset(kept(utterance, t), 0, columns() * sizeof(float));
      }
    }
    float* kept(int64_t utterance, int64_t frame) const {
      const int64_t row_of_all = (utterance * args.frames + frame) * args.directions + direction;
      return static_cast<float*>(args.states) + row_of_all * args.hidden + group * kGroup;
    }

    void frames(int64_t utterance, int64_t frame, int64_t count, int64_t step) const {
      if (args.parts == 4) return vectors<Highway::part>(utterance, frame, count, step);
      if (args.x.data) return vectors<Highway::input>(utterance, frame, count, step);
      return vectors<Highway::none>(utterance, frame, count, step);
    }
    template <Highway kHighway>
    void vectors(int64_t utterance, int64_t frame, int64_t count, int64_t step) const {
      constexpr int kTogether = 4;  // chains that hide each other's latency
      int64_t j = 0;
      for (; j + kTogether * N <= columns(); j += kTogether * N)
        chains<kHighway, kTogether>(j, kTogether * N, utterance, frame, count, step);
      for (; j < columns(); j += N)
        chains<kHighway, 1>(j, columns() - j < N ? columns() - j : N, utterance, frame, count, step);
    }

    // kCount vectors of columns from `column` on, of which `width` columns are there.
    template <Highway kHighway, int kCount>
    void chains(int64_t column, int64_t width, int64_t utterance, int64_t frame, int64_t count, int64_t step) const {
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
      const Storage* x = kHighway == Highway::input ? at<Storage>(args.x, utterance, frame) + column : nullptr;
      Storage* h = at<Storage>(args.h, utterance, frame) + column;
      float* state = args.states ? kept(utterance, frame) + column : nullptr;
      Storage* kept_u = args.u.data ? at<Storage>(args.u, utterance, frame) + column : nullptr;
      const float(*weights)[kGroup] = chain->weights;
      for (int64_t n = 0; n < count; ++n) {
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
          if (state) store(state + v * N, c[v], lanes(v));
          if (kept_u)
            for (int64_t part = 0; part < kParts; ++part)
              store(kept_u + part * args.u.part + v * N, Lane<float, N>::load(here + part * kPart), lanes(v));
        }
        if (kHighway == Highway::input) x += step * args.x.frame;
        h += step * args.h.frame;
        if (state) state += step * args.directions * args.hidden;
        if (kept_u) kept_u += step * args.u.frame;
      }
      for (int v = 0; v < kCount; ++v) Lane<float, N>::store(chain->now + column + v * N, c[v]);
    }

    template <class T>
    static SRU_ASR_INLINE V load(const T* from, int count) {
      if (__builtin_expect(count == N, 1)) return Lane<T, N>::load(from);
      T padded_row[N] = {};
      for (int i = 0; i < count; ++i) padded_row[i] = from[i];
      return Lane<T, N>::load(padded_row);
    }
    template <class T>
    static SRU_ASR_INLINE void store(T* to, const V& v, int count) {
      if (__builtin_expect(count == N, 1)) return Lane<T, N>::store(to, v);
      T padded_row[N];
      Lane<T, N>::store(padded_row, v);
      for (int i = 0; i < count; ++i) to[i] = padded_row[i];
    }
  };

  static int64_t row_group_bytes(int64_t inputs) { return Product::packed_bytes(inputs); }

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
    [[maybe_unused]] const typename Product::Session session;
    float* products[2] = {static_cast<float*>(scratch), static_cast<float*>(scratch) + kProduct};
    Chain* const chains = reinterpret_cast<Chain*>(products[1] + kProduct);
    const int64_t per_direction = groups(args.hidden);
    for (int64_t n = begin; n < end; ++n) load_weights(n / per_direction, n % per_direction, chains[n - begin]);

    const int64_t inputs = padded_inputs(args.inputs);
    const int64_t block_bytes = kBlockRows / Product::kRows * row_group_bytes(args.inputs);
    const int64_t blocks = ceil_div(row_count(args), kBlockRows);
    const int64_t together = kKeptBytes < block_bytes ? 1 : kKeptBytes / block_bytes;
    Walk walk = {*this, args, 0, 0, nullptr, nullptr, 0, 0, 0};  // over the block before the one being multiplied
    int buffer = 0;
    for (int64_t direction = begin / per_direction; direction * per_direction < end; ++direction) {
      const int64_t first = begin > direction * per_direction ? begin : direction * per_direction;
      const int64_t last = end < (direction + 1) * per_direction ? end : (direction + 1) * per_direction;
      for (int64_t done = 0; done < blocks; done += together)
        for (int64_t n = first; n < last; ++n)
          for (int64_t i = done; i < done + together && i < blocks; ++i) {
            const int64_t block = direction == 0 ? i : blocks - 1 - i;
            const int64_t base = block * kBlockRows;
            const int64_t rows = row_count(args) - base < kBlockRows ? row_count(args) - base : kBlockRows;
            multiply(direction, n % per_direction, base, rows, inputs, products[buffer], walk);
            walk.advance(walk.left);
            walk.direction = direction, walk.group = n % per_direction, walk.chain = chains + (n - begin);
            walk.product = products[buffer], walk.base = base, walk.left = rows;
            walk.row = direction == 0 ? base : base + rows - 1;
            buffer = 1 - buffer;
          }
    }
    walk.advance(walk.left);
  }

  // The product of those of `rows` rows from `base` on that some utterance has.
  void multiply(int64_t direction, int64_t group, int64_t base, int64_t rows, int64_t inputs, float* product,
                Walk& walk) const {
    const int64_t pairs = group_pairs(args.parts, args.hidden, group);
    const int64_t before = direction * packed_pairs(args.parts, args.hidden) + group * group_pairs(args.parts, kGroup, 0);
    const Storage* weight = static_cast<const Storage*>(args.weight) + before * inputs * 2 * kTile;
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
        Product::multiply(from, to - g, weight, pairs, inputs, product + g * Product::kRows * kTile,
                          [&](int64_t share, int64_t of) { walk.advance(ceil_div(walk.left * share, of)); });
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
            static_cast<int64_t>(2 * kProduct * sizeof(float) + args.directions * groups(args.hidden) * sizeof(Chain))};
  }
};

LayerNeeds layer_needs(Number number, const Layer& args) {
  return number == Number::float32 ? FusedLayer<float>::needs(args) : FusedLayer<bfloat16>::needs(args);
}
void layer_pack(Number number, const Layer& args, int64_t begin, int64_t end) {
  number == Number::float32 ? FusedLayer<float>{args}.pack(begin, end) : FusedLayer<bfloat16>{args}.pack(begin, end);
}
void layer_run(Number number, const Layer& args, int64_t begin, int64_t end, void* scratch) {
  number == Number::float32 ? FusedLayer<float>{args}.run(begin, end, scratch)
                            : FusedLayer<bfloat16>{args}.run(begin, end, scratch);
}

}  // namespace
}  // namespace sru_asr::SRU_ASR_VARIANT
