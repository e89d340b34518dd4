// The kernels of an instruction set, and the choice between them.
#pragma once

#include "ctc.h"
#include "recurrence.h"

namespace sru_asr {

struct Kernels {
  const char* name;
  // scratch holds kScratchRows * (end - begin) numbers, rounded up to whole vectors
  void (*forward)(Number, const Forward&, const Task&, void* scratch);
  void (*backward)(Number, const Backward&, const Task&, void* scratch);
  // one utterance; scratch holds ctc_scratch numbers
  void (*ctc)(const Alignments&, int64_t utterance, void* scratch);
};

extern const Kernels kBaselineKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;

// The kernels this process uses, and the reason, decided at first call from the processor and the environment variable
// SRU_ASR_CPU (baseline, avx2, avx512). Throws std::runtime_error if that names something this machine cannot run.
const Kernels& kernels();
const char* kernels_reason();

}  // namespace sru_asr
