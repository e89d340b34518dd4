// What the operators share: checks whose messages name argument and shape, and the way from tensors to plain pointers.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "kernels.h"

namespace sru_asr {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline std::string shape(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + ")";
}

inline std::string shape(std::initializer_list<int64_t> sizes) {
  std::string text = "(";
  for (auto size = sizes.begin(); size != sizes.end(); ++size)
    text += (size == sizes.begin() ? "" : ", ") + std::to_string(*size);
  return text + ")";
}

// `name` is the argument's, with the operator's before it: "sru_asr::recurrence: x".
inline void check(const Tensor& tensor, const std::string& name, const char* meaning, std::initializer_list<int64_t> sizes,
                  ScalarType dtype, const Tensor& beside) {
  bool same = tensor.dim() == static_cast<int64_t>(sizes.size());
  int64_t i = 0;
  for (int64_t size : sizes) same = same && tensor.size(i++) == size;
  STD_TORCH_CHECK(same, name, " must be ", meaning, " = ", shape(sizes), ", got ", shape(tensor));
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " must have dtype ", torch::headeronly::toString(dtype), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()));
  STD_TORCH_CHECK(tensor.device() == beside.device(), name, " must be on the device of the other tensors");
}

// The kernels want the last dimension contiguous and accept any other strides.
inline Tensor dense(const Tensor& tensor) {
  return tensor.stride(tensor.dim() - 1) == 1 ? tensor : torch::stable::contiguous(tensor);
}
inline MaybeTensor dense(const MaybeTensor& tensor) { return tensor ? MaybeTensor(dense(*tensor)) : MaybeTensor(); }
inline MaybeTensor contiguous(const MaybeTensor& tensor) {
  return tensor ? MaybeTensor(torch::stable::contiguous(*tensor)) : MaybeTensor();
}

// (batch, frames, directions, hidden) or (batch, frames, directions, parts, hidden)
inline Strided strided(const Tensor& tensor) {
  return {tensor.data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2),
          tensor.dim() == 5 ? tensor.stride(3) : 0};
}
inline Strided strided(const MaybeTensor& tensor) { return tensor ? strided(*tensor) : Strided(); }
inline void* pointer(const MaybeTensor& tensor) { return tensor ? tensor->data_ptr() : nullptr; }

// States, parameters and their gradients are kept in at least float32.
inline ScalarType accumulator(ScalarType dtype) { return dtype == ScalarType::Double ? dtype : ScalarType::Float; }

// What both the recurrence and the fused layer are given beside their inputs.
struct Arguments {
  const char* operator_name;
  MaybeTensor x;
  Tensor weight_c, bias;
  MaybeTensor initial, lengths;
  double alpha;
  int64_t chunk, lookahead;

  std::string name(const char* argument) const { return std::string(operator_name) + ": " + argument; }

  // Checks everything and makes what the kernels need contiguous; call once, before the kernels. `input` is the tensor
  // that has batch, frames, dtype and device.
  Problem checked(const Tensor& input, int64_t directions, int64_t parts, int64_t hidden) {
    const int64_t batch = input.size(0), frames = input.size(1);
    const ScalarType dtype = input.scalar_type(), real = accumulator(dtype);
    STD_TORCH_CHECK(!x || parts == 3, name("x"), " must be None where the product brings the highway as its fourth part");
    if (x) check(*x, name("x"), "(batch, frames, directions, hidden)", {batch, frames, directions, hidden}, dtype, input);
    check(weight_c, name("weight_c"), "(directions, 2, hidden)", {directions, 2, hidden}, real, input);
    check(bias, name("bias"), "(directions, 2, hidden)", {directions, 2, hidden}, real, input);
    if (initial)
      check(*initial, name("initial_state"), "(batch, directions, hidden)", {batch, directions, hidden}, real, input);
    if (lengths) check(*lengths, name("lengths"), "(batch,)", {batch}, ScalarType::Long, input);
    constexpr int64_t kMostFrames = int64_t{1} << 40;  // so that their sum is a number
    STD_TORCH_CHECK(chunk >= 0 && lookahead >= 0 && (chunk > 0 || lookahead == 0) && chunk <= kMostFrames &&
                        lookahead <= kMostFrames,
                    name("chunk"), " must be positive (or 0, with lookahead 0, for the whole utterance) and lookahead not "
                    "negative, both at most 2^40, got chunk ", chunk, ", lookahead ", lookahead);
    const int64_t window = chunk + lookahead;
    STD_TORCH_CHECK(window == 0 || frames % window == 0, operator_name, ": expected whole windows of chunk + lookahead = ",
                    window, " frames, got ", frames, " frames");
    x = dense(x);
    weight_c = torch::stable::contiguous(weight_c);
    bias = torch::stable::contiguous(bias);
    initial = contiguous(initial);
    lengths = contiguous(lengths);

    Problem problem;
    problem.batch = batch, problem.frames = frames, problem.directions = directions;
    problem.parts = parts, problem.hidden = hidden;
    problem.chunk = window ? chunk : frames, problem.lookahead = lookahead;
    problem.windows = window ? frames / window : (frames > 0);
    problem.lengths = static_cast<const int64_t*>(pointer(lengths));
    problem.alpha = alpha;
    problem.x = strided(x);
    problem.weight_c = weight_c.data_ptr(), problem.bias = bias.data_ptr(), problem.initial = pointer(initial);
    return problem;
  }

  // On the CPU, where the lengths can be read.
  void check_lengths(const Problem& problem) const {
    const int64_t most = problem.windows ? problem.windows * problem.chunk + problem.lookahead : 0;
    for (int64_t i = 0; problem.lengths && i < problem.batch; ++i)
      STD_TORCH_CHECK(problem.lengths[i] >= 0 && problem.lengths[i] <= most, name("lengths["), i,
                      "] must lie between 0 and the ", most, " frames there are, got ", problem.lengths[i]);
  }
};

// Memory for a kernel, in whole cache lines.
using Memory = std::unique_ptr<void, void (*)(void*)>;
inline Memory allocate(const char* operator_name, size_t bytes) {
  Memory memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64), std::free);
  STD_TORCH_CHECK(memory, operator_name, ": out of memory");
  return memory;
}

}  // namespace sru_asr
