// The CUDA kernels for those who know nothing of CUDA. Each returns null, or what the GPU says went wrong.
#pragma once

#include "../ctc.h"
#include "../recurrence.h"

namespace sru_asr {

const char* launch_forward(Number number, const Forward& args, void* stream);
const char* launch_backward(Number number, const Backward& args, void* stream);
int64_t kept_states(const Problem& problem);  // of an utterance, in each direction

// Scratch of ctc_scratch_numbers for each utterance.
const char* launch_ctc(const Alignments& args, int64_t batch, float* scratch, void* stream);
const char* launch_ctc_gradients(const AlignmentGradients& args, int64_t batch, void* stream);
int64_t ctc_scratch_numbers(int64_t frames, int64_t tokens);

}  // namespace sru_asr
