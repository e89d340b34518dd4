// The recurrence's kernels for a GPU, and their launch.
#define SRU_ASR_VARIANT cuda
#define SRU_ASR_INLINE __host__ __device__ __forceinline__
#define SRU_ASR_INLINE_LAMBDA
#include "recurrence_kernel.h"

#include "launch.h"

namespace sru_asr {
namespace cuda {
namespace {

template <class Warp, class Args>
__global__ void __launch_bounds__(kLanes) run(const __grid_constant__ Args args, Copying copying) {
  __shared__ alignas(16) char shared[Warp::kSharedBytes];
  // Neighbours in the grid have neighbouring columns.
  const int64_t blocks = (args.hidden + Warp::kWarpColumns - 1) / Warp::kWarpColumns;
  const int64_t row = blockIdx.x / blocks, column = blockIdx.x % blocks * Warp::kWarpColumns;
  Warp(args, Share{row / args.directions, row % args.directions, column}, copying).run(shared);
}

template <class Warp, class Args>
const char* launch(const Args& args, Copying copying, void* stream) {
  const int64_t blocks = args.batch * args.directions * ((args.hidden + Warp::kWarpColumns - 1) / Warp::kWarpColumns);
  constexpr int64_t kMost = int64_t{1} << 31;
  if (blocks >= kMost || args.frames >= kMost) return "expected less than 2^31 frames and, all in all, blocks of columns";
  // Where the driver divides a multiprocessor's memory otherwise, fewer warps fit. A wish: no matter if it is refused.
  [[maybe_unused]] static const cudaError_t wished = cudaFuncSetAttribute(
      run<Warp, Args>, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  run<Warp><<<static_cast<unsigned>(blocks), kLanes, 0, static_cast<cudaStream_t>(stream)>>>(args, copying);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace
}  // namespace cuda

const char* launch_forward(Number number, const Forward& args, void* stream) {
  return cuda::with_storage(number, [&](auto storage) {
    using Storage = typename decltype(storage)::type;
    return cuda::launch<cuda::ForwardWarp<Storage>>(args, cuda::copying<Storage>(args), stream);
  });
}
const char* launch_backward(Number number, const Backward& args, void* stream) {
  return cuda::with_storage(number, [&](auto storage) {
    using Storage = typename decltype(storage)::type;
    return cuda::launch<cuda::BackwardWarp<Storage>>(args, cuda::copying<Storage>(args, args.grad_h), stream);
  });
}
int64_t kept_states(const Problem& problem) { return problem.windows * cuda::window_segments(problem); }

}  // namespace sru_asr
