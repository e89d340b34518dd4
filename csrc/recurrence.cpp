// The recurrence on CPUs: its work in pieces for threads. And the operator's schema.
#include "recurrence_operator.h"

namespace sru_asr {
namespace {

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
    const Memory scratch = allocate(kRecurrence, bytes);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / splits, first = task % splits * width;
      const int64_t last = first + width < problem.hidden ? first + width : problem.hidden;
      body(Task{row / problem.directions, row % problem.directions, first, last}, scratch.get());
    }
  });
}

template <class Real>
void sum_weights(const Tensor& parts, Tensor& grad_weight_c, Tensor& grad_bias) {
  const Real* from = static_cast<const Real*>(parts.data_ptr());
  Real* const weight_c = static_cast<Real*>(grad_weight_c.data_ptr());
  Real* const bias = static_cast<Real*>(grad_bias.data_ptr());
  const int64_t half = 2 * parts.size(3);
  for (int64_t b = 0; b < parts.size(0); ++b)
    for (int64_t d = 0; d < parts.size(1); ++d, from += 2 * half)
      for (int64_t j = 0; j < half; ++j) {
        weight_c[d * half + j] = (b ? weight_c[d * half + j] : 0) + from[j];
        bias[d * half + j] = (b ? bias[d * half + j] : 0) + from[half + j];
      }
}

struct Cpu {
  static constexpr bool kFloat16 = false, kReadsLengths = true;
  static int64_t kept(const Problem& problem) { return problem.frames; }
  static void forward(Number number, const Forward& args, const Tensor&) {
    const Kernels& variant = kernels();
    for_each_task(args, [&](const Task& task, void* scratch) { variant.forward(number, args, task, scratch); });
  }
  static void backward(Number number, const Backward& args, const Tensor&) {
    const Kernels& variant = kernels();
    for_each_task(args, [&](const Task& task, void* scratch) { variant.backward(number, args, task, scratch); });
  }
  static std::tuple<Tensor, Tensor> sum_weights(const Tensor& parts) {
    Tensor weight_c = torch::stable::new_empty(parts, {parts.size(1), 2, parts.size(3)});
    Tensor bias = torch::stable::new_empty(parts, {parts.size(1), 2, parts.size(3)});
    if (parts.size(0) == 0) {
      torch::stable::zero_(weight_c);
      torch::stable::zero_(bias);
    } else if (parts.scalar_type() == ScalarType::Double) {
      sru_asr::sum_weights<double>(parts, weight_c, bias);
    } else {
      sru_asr::sum_weights<float>(parts, weight_c, bias);
    }
    return {weight_c, bias};
  }
};

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
  m.impl("recurrence", TORCH_BOX(&sru_asr::recurrence<sru_asr::Cpu>));
  m.impl("recurrence_backward", TORCH_BOX(&sru_asr::recurrence_backward<sru_asr::Cpu>));
}
