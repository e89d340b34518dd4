// The recurrence as an operator: schema, checks (once, for every device), allocation. The kernels get plain pointers.
#include "arguments.h"

namespace sru_asr {
namespace {

constexpr const char* kName = "sru_asr::recurrence";

Number number(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return Number::float32;
    case ScalarType::Double:
      return Number::float64;
    case ScalarType::BFloat16:
      return Number::bfloat16;
    default:
      STD_TORCH_CHECK(false, kName, ": u must be float32, float64 or bfloat16, got ", torch::headeronly::toString(dtype));
  }
}

// Checks everything; `u` is made dense where it is not.
Problem checked(Tensor& u, Arguments& arguments) {
  STD_TORCH_CHECK(u.dim() == 5 && (u.size(2) == 1 || u.size(2) == 2) && (u.size(3) == 3 || u.size(3) == 4), kName,
                  ": u must be (batch, frames, 1 or 2 directions, 3 or 4 parts, hidden), got ", shape(u));
  number(u.scalar_type());
  Problem problem = arguments.checked(u, u.size(2), u.size(3), u.size(4));
  arguments.check_lengths(problem);
  u = dense(u);
  problem.u = strided(u);
  return problem;
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
    const size_t bytes = kScratchRows * width * sizeof(double);
    const Memory scratch = allocate(kName, bytes);
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
  Arguments arguments{kName, x, weight_c, bias, initial_state, lengths, alpha, chunk, lookahead};
  Forward problem;
  static_cast<Problem&>(problem) = checked(u, arguments);
  const ScalarType dtype = u.scalar_type(), real = accumulator(dtype);
  const int64_t batch = problem.batch, frames = problem.frames, directions = problem.directions, hidden = problem.hidden;
  Tensor h = torch::stable::new_empty(u, {batch, frames, directions, hidden}, dtype);
  Tensor final_state = torch::stable::new_empty(u, {batch, directions, hidden}, real);
  Tensor states = torch::stable::new_empty(u, {keep_states ? batch : 0, frames, directions, hidden}, real);
  problem.h = strided(h);
  problem.final_state = final_state.data_ptr();
  problem.states = keep_states ? states.data_ptr() : nullptr;
  problem.kept = frames;
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
  Arguments arguments{kName, x, weight_c, bias, initial_state, lengths, alpha, chunk, lookahead};
  Backward problem;
  static_cast<Problem&>(problem) = checked(u, arguments);
  const ScalarType dtype = u.scalar_type(), real = accumulator(dtype);
  const int64_t batch = problem.batch, frames = problem.frames, directions = problem.directions, hidden = problem.hidden;
  if (grad_h)
    check(*grad_h, arguments.name("grad_h"), "(batch, frames, directions, hidden)", {batch, frames, directions, hidden}, dtype, u);
  if (grad_final)
    check(*grad_final, arguments.name("grad_final"), "(batch, directions, hidden)", {batch, directions, hidden}, real, u);
  check(states, arguments.name("states") + " (kept by a forward pass with keep_states)", "(batch, frames, directions, hidden)",
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
  problem.kept = frames;
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

}  // namespace
}  // namespace sru_asr

STABLE_TORCH_LIBRARY_FRAGMENT(sru_asr, m) {
  m.def(
      "recurrence(Tensor u, Tensor? x, Tensor weight_c, Tensor bias, Tensor? initial_state, Tensor? lengths, float alpha, "
      "int chunk, int lookahead, bool keep_states) -> (Tensor h, Tensor final_state, Tensor states)");
  m.def(
      "recurrence_backward(Tensor? grad_h, Tensor? grad_final, Tensor u, Tensor? x, Tensor weight_c, Tensor bias, "
      "Tensor? initial_state, Tensor? lengths, float alpha, int chunk, int lookahead, Tensor states) -> "
      "(Tensor grad_u, Tensor grad_x, Tensor grad_weight_c, Tensor grad_bias, Tensor grad_initial_state)");
}

STABLE_TORCH_LIBRARY_IMPL(sru_asr, CPU, m) {
  m.impl("recurrence", TORCH_BOX(&sru_asr::recurrence_cpu));
  m.impl("recurrence_backward", TORCH_BOX(&sru_asr::recurrence_backward_cpu));
}
