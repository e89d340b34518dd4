// The CUDA kernels for those who know nothing of CUDA. Each returns null, or what the GPU says went wrong.
#pragma once

#include "../recurrence.h"

namespace sru_asr {

const char* launch_forward(Number number, const Forward& args, void* stream);
const char* launch_backward(Number number, const Backward& args, void* stream);
int64_t kept_states(const Problem& problem);  // of an utterance, in each direction

}  // namespace sru_asr
