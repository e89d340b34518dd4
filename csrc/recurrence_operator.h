// The recurrence as an operator, but for the device: checks, allocation. Devices get plain pointers.
//
// A Device says which numbers it takes (kFloat16), whether it can read lengths to check them (kReadsLengths), how many states
// it keeps of an utterance, and runs the passes; sum_weights adds up the utterances' gradients of weight_c and bias in order,
// (batch, directions, 4, hidden) to (directions, 2, hidden) twice, so that results never depend on timing.
#pragma once

#include "arguments.h"

namespace sru_asr {

constexpr const char* kRecurrence = "sru_asr::recurrence";

inline Number number(ScalarType dtype, bool float16) {
  switch (dtype) {
    case ScalarType::Float:
      return Number::float32;
    case ScalarType::Double:
      return Number::float64;
    case ScalarType::BFloat16:
      return Number::bfloat16;
    case ScalarType::Half:
      if (float16) return Number::float16;
      [[fallthrough]];
    default:
      STD_TORCH_CHECK(false, kRecurrence, ": u must be float32, float64 or bfloat16",
                      float16 ? " or float16" : " (float16 on GPUs only)", ", got ", torch::headeronly::toString(dtype));
  }
}

// Checks everything; `u` is made dense where it is not.
template <class Device>
Problem checked(Tensor& u, Arguments& arguments) {
  STD_TORCH_CHECK(u.dim() == 5 && (u.size(2) == 1 || u.size(2) == 2) && (u.size(3) == 3 || u.size(3) == 4), kRecurrence,
                  ": u must be (batch, frames, 1 or 2 directions, 3 or 4 parts, hidden), got ", shape(u));
  number(u.scalar_type(), Device::kFloat16);
  Problem problem = arguments.checked(u, u.size(2), u.size(3), u.size(4));
  if (Device::kReadsLengths) arguments.check_lengths(problem);
  u = dense(u);
  problem.u = strided(u);
  return problem;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> recurrence(Tensor u, MaybeTensor x, Tensor weight_c, Tensor bias, MaybeTensor initial_state,
                                              MaybeTensor lengths, double alpha, int64_t chunk, int64_t lookahead,
                                              bool keep_states) {
  Arguments arguments{kRecurrence, x, weight_c, bias, initial_state, lengths, alpha, chunk, lookahead};
  Forward problem;
  static_cast<Problem&>(problem) = checked<Device>(u, arguments);
  const ScalarType dtype = u.scalar_type(), real = accumulator(dtype);
  const int64_t batch = problem.batch, frames = problem.frames, directions = problem.directions, hidden = problem.hidden;
  Tensor h = torch::stable::new_empty(u, {batch, frames, directions, hidden}, dtype);
  Tensor final_state = torch::stable::new_empty(u, {batch, directions, hidden}, real);
  const int64_t kept = Device::kept(problem);
  Tensor states = torch::stable::new_empty(u, {keep_states ? batch : 0, kept, directions, hidden}, real);
  problem.h = strided(h);
  problem.final_state = final_state.data_ptr();
  problem.states = keep_states ? states.data_ptr() : nullptr;
  problem.kept = kept;
  if (batch > 0 && hidden > 0) Device::forward(number(dtype, Device::kFloat16), problem, u);
  return {h, final_state, states};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrence_backward(
    MaybeTensor grad_h, MaybeTensor grad_final, Tensor u, MaybeTensor x, Tensor weight_c, Tensor bias,
    MaybeTensor initial_state, MaybeTensor lengths, double alpha, int64_t chunk, int64_t lookahead, Tensor states) {
  Arguments arguments{kRecurrence, x, weight_c, bias, initial_state, lengths, alpha, chunk, lookahead};
  Backward problem;
  static_cast<Problem&>(problem) = checked<Device>(u, arguments);
  const ScalarType dtype = u.scalar_type(), real = accumulator(dtype);
  const int64_t batch = problem.batch, frames = problem.frames, directions = problem.directions, hidden = problem.hidden;
  if (grad_h)
    check(*grad_h, arguments.name("grad_h"), "(batch, frames, directions, hidden)", {batch, frames, directions, hidden}, dtype, u);
  if (grad_final)
    check(*grad_final, arguments.name("grad_final"), "(batch, directions, hidden)", {batch, directions, hidden}, real, u);
  const int64_t kept = Device::kept(problem);
  check(states, arguments.name("states") + " (kept by a forward pass with keep_states)", "(batch, kept, directions, hidden)",
        {batch, kept, directions, hidden}, real, u);
  grad_h = dense(grad_h);
  grad_final = contiguous(grad_final);
  states = torch::stable::contiguous(states);
  Tensor grad_u = torch::stable::new_empty(u, {batch, frames, directions, problem.parts, hidden}, dtype);
  Tensor grad_x = torch::stable::new_empty(u, {x ? batch : 0, frames, directions, hidden}, dtype);
  Tensor grad_initial = torch::stable::new_empty(u, {batch, directions, hidden}, real);
  Tensor grad_weights = torch::stable::new_empty(u, {batch, directions, 4, hidden}, real);
  problem.states = states.data_ptr();
  problem.kept = kept;
  problem.grad_h = strided(grad_h);
  problem.grad_final = pointer(grad_final);
  problem.grad_u = strided(grad_u);
  problem.grad_x = x ? strided(grad_x) : Strided();
  problem.grad_initial = grad_initial.data_ptr();
  problem.grad_weights = grad_weights.data_ptr();
  if (batch > 0 && hidden > 0) Device::backward(number(dtype, Device::kFloat16), problem, u);
  auto [grad_weight_c, grad_bias] = Device::sum_weights(grad_weights);
  return {grad_u, grad_x, grad_weight_c, grad_bias, grad_initial};
}

}  // namespace sru_asr
