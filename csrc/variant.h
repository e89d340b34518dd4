// The name of the instruction set a translation unit is compiled for, and the namespace that goes with it.
#pragma once

#ifndef SRU_ASR_INLINE
#define SRU_ASR_INLINE inline __attribute__((always_inline))
#define SRU_ASR_INLINE_LAMBDA __attribute__((always_inline))
#endif

// Everything a translation unit compiles with its own instruction set lives in a namespace of its own. Without it the
// linker would keep one copy of each inline function, and a machine without AVX-512 might be handed that copy.
#ifndef SRU_ASR_VARIANT
#error "define SRU_ASR_VARIANT (the name of the instruction set) before including any kernel header"
#endif

namespace sru_asr::SRU_ASR_VARIANT {

// Both gates of an element, and what they leave to one, e^-a f: the difference 1 - f has no digits left where f is all but
// one, and a gradient may be the product of it and something large.
template <class Number>
struct Gates {
  Number forget, reset, not_forget, not_reset;
};

}  // namespace sru_asr::SRU_ASR_VARIANT
