// The CUDA kernels on a CPU, lane by lane: what SRU_ASR_CPU=emulated tests on a machine without a GPU.
#define SRU_ASR_VARIANT emulated
#include "../cuda/ctc_kernel.h"
#include "../cuda/recurrence_kernel.h"

#include <cstdlib>

#include "../kernels.h"

namespace sru_asr {
namespace emulated {
namespace {

// SRU_ASR_EMULATION: any of "late" (copies arrive when waited for) and "reverse" (the last lane goes first).
void configure() {
  const char* const wanted = std::getenv("SRU_ASR_EMULATION");
  emulation.at_once = !(wanted && std::strstr(wanted, "late"));
  emulation.last_lane_first = wanted && std::strstr(wanted, "reverse");
}

template <class Warp, class Args>
void run(const Args& args, const Task& task, Copying copying) {
  configure();
  alignas(16) static thread_local char shared[Warp::kSharedBytes];
  for (int64_t column = task.begin; column < task.end; column += Warp::kWarpColumns) {
    std::memset(shared, 0xff, sizeof shared);  // NaN
    Warp(args, Share{task.utterance, task.direction, column}, copying).run(shared);
  }
}

void forward(Number number, const Forward& args, const Task& task, void*) {
  with_storage(number, [&](auto storage) {
    using Storage = typename decltype(storage)::type;
    run<ForwardWarp<Storage>>(args, task, copying<Storage>(args));
  });
}
void backward(Number number, const Backward& args, const Task& task, void*) {
  with_storage(number, [&](auto storage) {
    using Storage = typename decltype(storage)::type;
    run<BackwardWarp<Storage>>(args, task, copying<Storage>(args, args.grad_h));
  });
}

// Memory that holds what nobody wrote to it.
void ctc(const Alignments& args, int64_t utterance, void*) {
  configure();
  std::vector<uint32_t> scratch(ctc_warp_scratch(args.frames, args.tokens), 0xffffffffu);
  CtcWarp(args, utterance, reinterpret_cast<float*>(scratch.data())).run();
}
void gradients(const AlignmentGradients& args, int64_t utterance) {
  configure();
  for (int64_t frame = 0; frame < args.frames; ++frame) ctc_gradient(args, utterance, frame);
}

}  // namespace
}  // namespace emulated

// The layer in one pass is the baseline's.
const Kernels& emulated_kernels() {
  static const Kernels kernels = [] {
    Kernels some = kBaselineKernels;
    some.name = "emulated", some.forward = emulated::forward, some.backward = emulated::backward;
    some.ctc = emulated::ctc, some.ctc_gradient = emulated::gradients;
    return some;
  }();
  return kernels;
}
}  // namespace sru_asr
