// Chooses the instruction set at run time.
#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(SRU_ASR_X86)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#include "../kernels.h"

namespace sru_asr {
namespace {

struct Choice {
  const Kernels* kernels;
  std::string reason;
};

#if defined(SRU_ASR_X86)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && has_avx2();
}
// Bits of CPUID's leaf 7, as not every compiler knows these sets by name.
bool leaf7(unsigned subleaf, int reg, unsigned mask) {
  unsigned registers[4];
  return __get_cpuid_count(7, subleaf, &registers[0], &registers[1], &registers[2], &registers[3]) &&
         (registers[reg] & mask) == mask;
}
bool has_avx512_bf16() { return has_avx512() && leaf7(1, 0, 1u << 5); }
bool has_amx() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM: the system saves tiles when asked to
  constexpr unsigned kBf16TilesInt8 = 1u << 22 | 1u << 24 | 1u << 25;
  return has_avx512_bf16() && leaf7(0, 3, kBf16TilesInt8) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

Choice choose() {
  struct Candidate {
    const Kernels* kernels;
    bool supported;
  };
  const Candidate candidates[] = {
#if defined(SRU_ASR_X86)
      {&kAmxKernels, has_amx()},
      {&kAvx512Bf16Kernels, has_avx512_bf16()},
      {&kAvx512Kernels, has_avx512()},
      {&kAvx2Kernels, has_avx2()},
#endif
      {&kBaselineKernels, true},
  };
  std::string supported;
  for (const Candidate& candidate : candidates)
    if (candidate.supported) supported += std::string(supported.empty() ? "" : ", ") + candidate.kernels->name;
  const char* forced = std::getenv("SRU_ASR_CPU");
  if (forced && std::string(forced) == "emulated") return {&emulated_kernels(), "forced by SRU_ASR_CPU"};
  for (const Candidate& candidate : candidates) {
    if (!candidate.supported) continue;
    if (!forced || !*forced) return {candidate.kernels, "the best of what this processor supports: " + supported};
    if (std::string(forced) == candidate.kernels->name) return {candidate.kernels, "forced by SRU_ASR_CPU"};
  }
  throw std::runtime_error("SRU_ASR_CPU asks for '" + std::string(forced) + "' kernels; this processor and build have: " +
                           supported + ". Unset it or choose one of those.");
}

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

}  // namespace

const Kernels& kernels() { return *choice().kernels; }
const char* kernels_reason() { return choice().reason.c_str(); }

}  // namespace sru_asr
