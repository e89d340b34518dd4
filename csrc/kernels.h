// The kernels of an instruction set, and the choice between them.
#pragma once

#include "ctc.h"
#include "layer.h"
#include "recurrence.h"

namespace sru_asr {

struct Kernels {
  const char* name;
  // scratch holds kScratchRows * (end - begin) numbers, rounded up to whole vectors
  void (*forward)(Number, const Forward&, const Task&, void* scratch);
  void (*backward)(Number, const Backward&, const Task&, void* scratch);
  // one utterance; scratch holds ctc_scratch numbers
  void (*ctc)(const Alignments&, int64_t utterance, void* scratch);
  void (*ctc_gradient)(const AlignmentGradients&, int64_t utterance);
  // Packs row groups, then computes groups of columns (counted through both directions), of the utterances at hand.
  LayerNeeds (*layer_needs)(const Layer&);
  void (*layer_pack)(const Layer&, int64_t begin, int64_t end);
  void (*layer_run)(const Layer&, int64_t begin, int64_t end, void* scratch);
};

extern const Kernels kBaselineKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;
extern const Kernels kAmxKernels;
const Kernels& emulated_kernels();  // the CUDA kernels on a CPU, to test them

// The kernels this process uses, and the reason, decided at first call from the processor and the environment variable
// SRU_ASR_CPU (baseline, avx2, avx512, avx512_bf16, amx, emulated). Throws std::runtime_error if that names something this machine cannot run.
const Kernels& kernels();
const char* kernels_reason();

}  // namespace sru_asr
