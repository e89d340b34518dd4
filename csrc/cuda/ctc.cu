// The CTC loss's kernels for a GPU, and their launch.
#define SRU_ASR_VARIANT cuda
#define SRU_ASR_INLINE __host__ __device__ __forceinline__
#define SRU_ASR_INLINE_LAMBDA
#include "ctc_kernel.h"

#include "launch.h"

namespace sru_asr {
namespace cuda {
namespace {

__global__ void __launch_bounds__(kLanes) losses(const __grid_constant__ Alignments args, float* scratch) {
  CtcWarp(args, blockIdx.x, scratch + blockIdx.x * ctc_warp_scratch(args.frames, args.tokens)).run();
}
__global__ void __launch_bounds__(kLanes) gradients(const __grid_constant__ AlignmentGradients args) {
  ctc_gradient(args, blockIdx.x / args.frames, blockIdx.x % args.frames);
}

constexpr int64_t kMost = int64_t{1} << 31;

const char* outcome() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace
}  // namespace cuda

int64_t ctc_scratch_numbers(int64_t frames, int64_t tokens) { return cuda::ctc_warp_scratch(frames, tokens); }

const char* launch_ctc(const Alignments& args, int64_t batch, float* scratch, void* stream) {
  if (batch >= cuda::kMost || args.frames >= cuda::kMost || args.tokens >= cuda::kMost / 4)
    return "expected less than 2^31 utterances and frames, and 2^29 tokens";
  cuda::losses<<<static_cast<unsigned>(batch), cuda::kLanes, 0, static_cast<cudaStream_t>(stream)>>>(args, scratch);
  return cuda::outcome();
}
const char* launch_ctc_gradients(const AlignmentGradients& args, int64_t batch, void* stream) {
  const int64_t blocks = batch * args.frames;
  if (blocks == 0) return nullptr;
  if (blocks >= cuda::kMost) return "expected less than 2^31 frames in all utterances together";
  cuda::gradients<<<static_cast<unsigned>(blocks), cuda::kLanes, 0, static_cast<cudaStream_t>(stream)>>>(args);
  return cuda::outcome();
}

}  // namespace sru_asr
