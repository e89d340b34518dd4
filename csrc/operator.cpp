// The operators torch sees: schema, checks (once, for every device), allocation. The kernels get plain pointers.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "kernels.h"

namespace sru_asr {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

std::string shape(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + ")";
}

std::string shape(std::initializer_list<int64_t> sizes) {
  std::string text = "(";
  for (auto size = sizes.begin(); size != sizes.end(); ++size)
    text += (size == sizes.begin() ? "" : ", ") + std::to_string(*size);
  return text + ")";
}

void check(const Tensor& tensor, const char* name, const char* meaning, std::initializer_list<int64_t> sizes,
           ScalarType dtype, const Tensor& u) {
  bool same = tensor.dim() == static_cast<int64_t>(sizes.size());
  int64_t i = 0;
  for (int64_t size : sizes) same = same && tensor.size(i++) == size;
  STD_TORCH_CHECK(same, "sru_asr::recurrence: ", name, " must be ", meaning, " = ", shape(sizes), ", got ", shape(tensor));
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, "sru_asr::recurrence: ", name, " must have dtype ",
                  torch::headeronly::toString(dtype), ", got ", torch::headeronly::toString(tensor.scalar_type()));
  STD_TORCH_CHECK(tensor.device() == u.device(), "sru_asr::recurrence: ", name, " and u must be on the same device");
}

// The kernels want the last dimension contiguous and accept any other strides.
Tensor dense(const Tensor& tensor) {
  return tensor.stride(tensor.dim() - 1) == 1 ? tensor : torch::stable::contiguous(tensor);
}
MaybeTensor dense(const MaybeTensor& tensor) { return tensor ? MaybeTensor(dense(*tensor)) : MaybeTensor(); }
MaybeTensor contiguous(const MaybeTensor& tensor) {
  return tensor ? MaybeTensor(torch::stable::contiguous(*tensor)) : MaybeTensor();
}

// (batch, frames, directions, hidden) or (batch, frames, directions, parts, hidden)
Strided strided(const Tensor& tensor) {
  return {tensor.data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2),
          tensor.dim() == 5 ? tensor.stride(3) : 0};
}
Strided strided(const MaybeTensor& tensor) { return tensor ? strided(*tensor) : Strided(); }
void* pointer(const MaybeTensor& tensor) { return tensor ? tensor->data_ptr() : nullptr; }

Number number(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return Number::float32;
    case ScalarType::Double:
      return Number::float64;
    case ScalarType::BFloat16:
      return Number::bfloat16;
    default:
      STD_TORCH_CHECK(false, "sru_asr::recurrence: u must be float32, float64 or bfloat16, got ",
                      torch::headeronly::toString(dtype));
  }
}

// States, parameters and their gradients are kept in at least float32.
ScalarType accumulator(ScalarType dtype) { return dtype == ScalarType::Double ? dtype : ScalarType::Float; }

struct Arguments {
  Tensor u;
  MaybeTensor x;
  Tensor weight_c, bias;
  MaybeTensor initial, lengths;
  double alpha;
  int64_t chunk, lookahead;

  // Checks everything and makes what the kernels need contiguous; call once, before the kernels.
  Problem checked() {
    STD_TORCH_CHECK(u.dim() == 5 && (u.size(2) == 1 || u.size(2) == 2) && (u.size(3) == 3 || u.size(3) == 4),
                    "sru_asr::recurrence: u must be (batch, frames, 1 or 2 directions, 3 or 4 parts, hidden), got ", shape(u));
    const int64_t batch = u.size(0), frames = u.size(1), directions = u.size(2), parts = u.size(3), hidden = u.size(4);
    const ScalarType dtype = u.scalar_type(), real = accumulator(dtype);
    number(dtype);
    STD_TORCH_CHECK(!x || parts == 3, "sru_asr::recurrence: x must be None where u brings the highway as its fourth part");
    if (x) check(*x, "x", "(batch, frames, directions, hidden)", {batch, frames, directions, hidden}, dtype, u);
    check(weight_c, "weight_c", "(directions, 2, hidden)", {directions, 2, hidden}, real, u);
    check(bias, "bias", "(directions, 2, hidden)", {directions, 2, hidden}, real, u);
    if (initial)
      check(*initial, "initial_state", "(batch, directions, hidden)", {batch, directions, hidden}, real, u);
    if (lengths) check(*lengths, "lengths", "(batch,)", {batch}, ScalarType::Long, u);
    STD_TORCH_CHECK(chunk >= 0 && lookahead >= 0 && (chunk > 0 || lookahead == 0),
                    "sru_asr::recurrence: chunk must be positive (or 0, with lookahead 0, for the whole utterance) and "
                    "lookahead not negative, got chunk ", chunk, ", lookahead ", lookahead);
    const int64_t window = chunk + lookahead;
    STD_TORCH_CHECK(window == 0 || frames % window == 0,
                    "sru_asr::recurrence: u must hold whole windows of chunk + lookahead = ", window, " frames, got ", frames);
    u = dense(u);
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
    problem.u = strided(u), problem.x = strided(x);
    problem.weight_c = weight_c.data_ptr(), problem.bias = bias.data_ptr(), problem.initial = pointer(initial);
    return problem;
  }
};

void check_lengths(const Problem& problem) {
  const int64_t most = problem.windows ? problem.windows * problem.chunk + problem.lookahead : 0;
  for (int64_t i = 0; problem.lengths && i < problem.batch; ++i)
    STD_TORCH_CHECK(problem.lengths[i] >= 0 && problem.lengths[i] <= most, "sru_asr::recurrence: lengths[", i,
                    "] must lie between 0 and the ", most, " frames of u, got ", problem.lengths[i]);
}

// Runs body on every column block of every utterance and direction. How the work is split changes no result: columns are
// independent, and nothing is summed across tasks.
template <class Body>
void for_each_task(const Problem& problem, Body body) {
  const int64_t rows = problem.batch * problem.directions;
  if (rows == 0 || problem.hidden == 0) return;
  const int64_t threads = torch::stable::get_num_threads();
  int64_t splits = (threads + rows - 1) / rows;
  int64_t width = (problem.hidden + splits - 1) / splits;
  width = (width + kColumnBlock - 1) / kColumnBlock * kColumnBlock;
  splits = (problem.hidden + width - 1) / width;
  // Below about a microsecond per frame and thread, waking the threads costs more than they save.
  const int64_t work = problem.frames * (problem.hidden < width ? problem.hidden : width);
  const int64_t grain = 1 + 16384 / (work + 1);
  torch::stable::parallel_for(0, rows * splits, grain, [&](int64_t begin, int64_t end) {
    const size_t bytes = kScratchRows * width * sizeof(double);  // a multiple of a cache line, as width is of kColumnBlock
    const std::unique_ptr<void, void (*)(void*)> scratch(std::aligned_alloc(64, bytes), std::free);
    STD_TORCH_CHECK(scratch, "sru_asr::recurrence: out of memory");
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / splits, first = task % splits * width;
      const int64_t last = first + width < problem.hidden ? first + width : problem.hidden;
      body(Task{row / problem.directions, row % problem.directions, first, last}, scratch.get());
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> recurrence_cpu(Tensor u, MaybeTensor x, Tensor weight_c, Tensor bias,
                                                  MaybeTensor initial_state, MaybeTensor lengths, double alpha,
                                                  int64_t chunk, int64_t lookahead, bool keep_states) {
  Arguments arguments{u, x, weight_c, bias, initial_state, lengths, alpha, chunk, lookahead};
  Forward problem;
  static_cast<Problem&>(problem) = arguments.checked();
  check_lengths(problem);
  const ScalarType dtype = u.scalar_type(), real = accumulator(dtype);
  const int64_t batch = problem.batch, frames = problem.frames, directions = problem.directions, hidden = problem.hidden;
  Tensor h = torch::stable::new_empty(u, {batch, frames, directions, hidden}, dtype);
  Tensor final_state = torch::stable::new_empty(u, {batch, directions, hidden}, real);
  Tensor states = torch::stable::new_empty(u, {keep_states ? batch : 0, frames, directions, hidden}, real);
  problem.h = strided(h);
  problem.final_state = final_state.data_ptr();
  problem.states = keep_states ? states.data_ptr() : nullptr;
  const Kernels& variant = kernels();
  for_each_task(problem, [&](const Task& task, void* scratch) { variant.forward(number(dtype), problem, task, scratch); });
  return {h, final_state, states};
}

// Sums the utterances' gradients of weight_c and bias in order, so that the result never depends on the threads.
template <class Real>
void sum_weights(const Tensor& parts, const Problem& problem, Tensor& grad_weight_c, Tensor& grad_bias) {
  const Real* from = static_cast<const Real*>(parts.data_ptr());
  Real* const weight_c = static_cast<Real*>(grad_weight_c.data_ptr());
  Real* const bias = static_cast<Real*>(grad_bias.data_ptr());
  const int64_t half = 2 * problem.hidden;
  for (int64_t b = 0; b < problem.batch; ++b)
    for (int64_t d = 0; d < problem.directions; ++d, from += 2 * half)
      for (int64_t j = 0; j < half; ++j) {
        weight_c[d * half + j] = (b ? weight_c[d * half + j] : 0) + from[j];
        bias[d * half + j] = (b ? bias[d * half + j] : 0) + from[half + j];
      }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrence_backward_cpu(
    MaybeTensor grad_h, MaybeTensor grad_final, Tensor u, MaybeTensor x, Tensor weight_c, Tensor bias,
    MaybeTensor initial_state, MaybeTensor lengths, double alpha, int64_t chunk, int64_t lookahead, Tensor states) {
  Arguments arguments{u, x, weight_c, bias, initial_state, lengths, alpha, chunk, lookahead};
  Backward problem;
  static_cast<Problem&>(problem) = arguments.checked();
  check_lengths(problem);
  const ScalarType dtype = u.scalar_type(), real = accumulator(dtype);
  const int64_t batch = problem.batch, frames = problem.frames, directions = problem.directions, hidden = problem.hidden;
  if (grad_h)
    check(*grad_h, "grad_h", "(batch, frames, directions, hidden)", {batch, frames, directions, hidden}, dtype, u);
  if (grad_final)
    check(*grad_final, "grad_final", "(batch, directions, hidden)", {batch, directions, hidden}, real, u);
  check(states, "states (kept by a forward pass with keep_states)", "(batch, frames, directions, hidden)",
        {batch, frames, directions, hidden}, real, u);
  grad_h = dense(grad_h);
  grad_final = contiguous(grad_final);
  states = torch::stable::contiguous(states);
  Tensor grad_u = torch::stable::new_empty(u, {batch, frames, directions, problem.parts, hidden}, dtype);
  Tensor grad_x = torch::stable::new_empty(u, {x ? batch : 0, frames, directions, hidden}, dtype);
  Tensor grad_weight_c = torch::stable::new_empty(u, {directions, 2, hidden}, real);
  Tensor grad_bias = torch::stable::new_empty(u, {directions, 2, hidden}, real);
  Tensor grad_initial = torch::stable::new_empty(u, {batch, directions, hidden}, real);
  Tensor grad_weights = torch::stable::new_empty(u, {batch, directions, 4, hidden}, real);
  problem.states = states.data_ptr();
  problem.grad_h = strided(grad_h);
  problem.grad_final = pointer(grad_final);
  problem.grad_u = strided(grad_u);
  problem.grad_x = x ? strided(grad_x) : Strided();
  problem.grad_initial = grad_initial.data_ptr();
  problem.grad_weights = grad_weights.data_ptr();
  const Kernels& variant = kernels();
  for_each_task(problem, [&](const Task& task, void* scratch) { variant.backward(number(dtype), problem, task, scratch); });
  if (batch == 0) {
    torch::stable::zero_(grad_weight_c);
    torch::stable::zero_(grad_bias);
  } else if (real == ScalarType::Double) {
    sum_weights<double>(grad_weights, problem, grad_weight_c, grad_bias);
  } else {
    sum_weights<float>(grad_weights, problem, grad_weight_c, grad_bias);
  }
  return {grad_u, grad_x, grad_weight_c, grad_bias, grad_initial};
}

void check_batch(const Tensor& tensor, const char* name, int64_t batch, const Tensor& log_probs) {
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == batch && tensor.scalar_type() == ScalarType::Long,
                  "sru_asr::ctc_loss: ", name, " must be (batch,) int64 with batch = ", batch, ", got ", shape(tensor));
  STD_TORCH_CHECK(tensor.device() == log_probs.device(), "sru_asr::ctc_loss: ", name, " and log_probs must be on one device");
}

// Every index the loops use, for both passes.
void check_targets(const int64_t* lengths, const int64_t* targets, const int64_t* target_lengths, int64_t batch,
                   int64_t frames, int64_t tokens, int64_t vocab, int64_t blank) {
  for (int64_t b = 0; b < batch; ++b) {
    STD_TORCH_CHECK(lengths[b] >= 0 && lengths[b] <= frames, "sru_asr::ctc_loss: lengths[", b, "] must lie between 0 and ",
                    frames, ", got ", lengths[b]);
    STD_TORCH_CHECK(target_lengths[b] >= 0 && target_lengths[b] <= tokens, "sru_asr::ctc_loss: target_lengths[", b,
                    "] must lie between 0 and ", tokens, ", got ", target_lengths[b]);
    for (int64_t i = 0; i < target_lengths[b]; ++i) {
      const int64_t token = targets[b * tokens + i];
      STD_TORCH_CHECK(token >= 0 && token < vocab && token != blank, "sru_asr::ctc_loss: targets[", b, ", ", i,
                      "] must be a token below ", vocab, " that is not the blank (", blank, "), got ", token);
    }
  }
}

// The loss of each utterance and, if wanted, what its gradient needs (otherwise a tensor without utterances).
std::tuple<Tensor, Tensor> ctc_loss_cpu(Tensor log_probs, Tensor lengths, Tensor targets, Tensor target_lengths,
                                        int64_t blank, bool keep_posteriors) {
  STD_TORCH_CHECK(log_probs.dim() == 3 && log_probs.scalar_type() == ScalarType::Float,
                  "sru_asr::ctc_loss: log_probs must be (batch, frames, vocab) of dtype Float, got ", shape(log_probs), " of ",
                  torch::headeronly::toString(log_probs.scalar_type()));
  const int64_t batch = log_probs.size(0), frames = log_probs.size(1), vocab = log_probs.size(2);
  STD_TORCH_CHECK(targets.dim() == 2 && targets.size(0) == batch && targets.scalar_type() == ScalarType::Long,
                  "sru_asr::ctc_loss: targets must be (batch, tokens) int64 with batch = ", batch, ", got ", shape(targets));
  STD_TORCH_CHECK(targets.device() == log_probs.device(), "sru_asr::ctc_loss: targets and log_probs must be on one device");
  check_batch(lengths, "lengths", batch, log_probs);
  check_batch(target_lengths, "target_lengths", batch, log_probs);
  STD_TORCH_CHECK(blank >= 0 && blank < vocab, "sru_asr::ctc_loss: blank must lie in [0, ", vocab, "), got ", blank);
  log_probs = dense(log_probs);
  lengths = torch::stable::contiguous(lengths);
  targets = torch::stable::contiguous(targets);
  target_lengths = torch::stable::contiguous(target_lengths);
  const int64_t tokens = targets.size(1);
  Tensor losses = torch::stable::new_empty(log_probs, {batch}, ScalarType::Float);
  Tensor posteriors =
      torch::stable::new_empty(log_probs, {keep_posteriors ? batch : 0, frames, tokens + 1}, ScalarType::Float);

  Alignments problem;
  problem.frames = frames, problem.vocab = vocab, problem.tokens = tokens, problem.blank = blank;
  problem.log_probs = static_cast<const float*>(log_probs.data_ptr());
  problem.batch_stride = log_probs.stride(0), problem.frame_stride = log_probs.stride(1);
  problem.lengths = static_cast<const int64_t*>(lengths.data_ptr());
  problem.targets = static_cast<const int64_t*>(targets.data_ptr());
  problem.target_lengths = static_cast<const int64_t*>(target_lengths.data_ptr());
  problem.losses = static_cast<float*>(losses.data_ptr());
  problem.posteriors = keep_posteriors ? static_cast<float*>(posteriors.data_ptr()) : nullptr;
  check_targets(problem.lengths, problem.targets, problem.target_lengths, batch, frames, tokens, vocab, blank);
  const Kernels& variant = kernels();
  // Utterances that together take some 50 microseconds, or waking a thread costs more than it saves.
  const int64_t grain = 1 + 16384 / (frames * (tokens + kCtcLanes) + 1);
  torch::stable::parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const size_t bytes = ctc_scratch(problem.lengths[b], problem.target_lengths[b]) * sizeof(float);
      const std::unique_ptr<void, void (*)(void*)> scratch(std::aligned_alloc(64, (bytes + 63) / 64 * 64), std::free);
      STD_TORCH_CHECK(scratch, "sru_asr::ctc_loss: out of memory");
      variant.ctc(problem, b, scratch.get());
    }
  });
  return {losses, posteriors};
}

// The gradient of log_probs: minus the posterior of each token in each frame, times the gradient of the utterance's loss.
Tensor ctc_loss_backward_cpu(Tensor grad_losses, Tensor posteriors, Tensor lengths, Tensor targets, Tensor target_lengths,
                             int64_t vocab, int64_t blank) {
  STD_TORCH_CHECK(targets.dim() == 2 && targets.scalar_type() == ScalarType::Long && blank >= 0 && blank < vocab,
                  "sru_asr::ctc_loss_backward: targets must be (batch, tokens) int64, and the blank below vocab");
  const int64_t batch = targets.size(0), tokens = targets.size(1);
  check_batch(lengths, "lengths", batch, posteriors);
  check_batch(target_lengths, "target_lengths", batch, posteriors);
  STD_TORCH_CHECK(posteriors.dim() == 3 && posteriors.size(0) == batch && posteriors.size(2) == tokens + 1 &&
                      posteriors.scalar_type() == ScalarType::Float,
                  "sru_asr::ctc_loss_backward: posteriors must be those that a forward pass with keep_posteriors kept, got ",
                  shape(posteriors));
  STD_TORCH_CHECK(grad_losses.dim() == 1 && grad_losses.size(0) == batch && grad_losses.scalar_type() == ScalarType::Float,
                  "sru_asr::ctc_loss_backward: grad_losses must be (batch,) of dtype Float, got ", shape(grad_losses));
  const int64_t frames = posteriors.size(1);
  posteriors = torch::stable::contiguous(posteriors);
  grad_losses = torch::stable::contiguous(grad_losses);
  lengths = torch::stable::contiguous(lengths);
  targets = torch::stable::contiguous(targets);
  target_lengths = torch::stable::contiguous(target_lengths);
  Tensor grad = torch::stable::new_empty(posteriors, {batch, frames, vocab}, ScalarType::Float);
  const float* const scales = static_cast<const float*>(grad_losses.data_ptr());
  const float* const from = static_cast<const float*>(posteriors.data_ptr());
  const int64_t* const length = static_cast<const int64_t*>(lengths.data_ptr());
  const int64_t* const target = static_cast<const int64_t*>(targets.data_ptr());
  const int64_t* const target_length = static_cast<const int64_t*>(target_lengths.data_ptr());
  float* const to = static_cast<float*>(grad.data_ptr());
  check_targets(length, target, target_length, batch, frames, tokens, vocab, blank);
  const int64_t grain = 1 + 262144 / (frames * vocab + 1);
  torch::stable::parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      std::fill_n(to + b * frames * vocab, frames * vocab, 0.0f);
      for (int64_t t = 0; t < length[b]; ++t) {
        const float* const posterior = from + (b * frames + t) * (tokens + 1);
        float* const row = to + (b * frames + t) * vocab;
        row[blank] = -scales[b] * posterior[tokens];
        for (int64_t i = 0; i < target_length[b]; ++i) row[target[b * tokens + i]] -= scales[b] * posterior[i];
      }
    }
  });
  return grad;
}

std::string kernel_name() { return kernels().name; }
std::string kernel_reason() { return kernels_reason(); }

}  // namespace
}  // namespace sru_asr

STABLE_TORCH_LIBRARY(sru_asr, m) {
  m.def(
      "recurrence(Tensor u, Tensor? x, Tensor weight_c, Tensor bias, Tensor? initial_state, Tensor? lengths, float alpha, "
      "int chunk, int lookahead, bool keep_states) -> (Tensor h, Tensor final_state, Tensor states)");
  m.def(
      "recurrence_backward(Tensor? grad_h, Tensor? grad_final, Tensor u, Tensor? x, Tensor weight_c, Tensor bias, "
      "Tensor? initial_state, Tensor? lengths, float alpha, int chunk, int lookahead, Tensor states) -> "
      "(Tensor grad_u, Tensor grad_x, Tensor grad_weight_c, Tensor grad_bias, Tensor grad_initial_state)");
  m.def(
      "ctc_loss(Tensor log_probs, Tensor lengths, Tensor targets, Tensor target_lengths, int blank, bool keep_posteriors) "
      "-> (Tensor losses, Tensor posteriors)");
  m.def(
      "ctc_loss_backward(Tensor grad_losses, Tensor posteriors, Tensor lengths, Tensor targets, Tensor target_lengths, "
      "int vocab, int blank) -> Tensor");
  m.def("kernel_name() -> str");
  m.def("kernel_reason() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(sru_asr, CPU, m) {
  m.impl("recurrence", TORCH_BOX(&sru_asr::recurrence_cpu));
  m.impl("recurrence_backward", TORCH_BOX(&sru_asr::recurrence_backward_cpu));
  m.impl("ctc_loss", TORCH_BOX(&sru_asr::ctc_loss_cpu));
  m.impl("ctc_loss_backward", TORCH_BOX(&sru_asr::ctc_loss_backward_cpu));
}

STABLE_TORCH_LIBRARY_IMPL(sru_asr, CompositeExplicitAutograd, m) {
  m.impl("kernel_name", TORCH_BOX(&sru_asr::kernel_name));
  m.impl("kernel_reason", TORCH_BOX(&sru_asr::kernel_reason));
}
