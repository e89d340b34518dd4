// A warp: 32 lanes, what each keeps, and copies into shared memory that arrive later. On a GPU it is what it says; elsewhere
// it is emulated, so that a machine without a GPU runs the same kernels and finds their mistakes.
//
// Kernels are written as passages that every lane runs (`each_lane`), with a `wait` between any two of them, which also lets
// all lanes come together. The emulation runs the lanes one after the other, in either order, and lets a copy arrive at
// either of the two extremes: at once, which shows who still reads what it overwrites, or when it is waited for, having left
// NaN behind, which shows who reads too soon.
#pragma once

#include <cstdint>

#include "../recurrence.h"
#include "../variant.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define SRU_ASR_DEVICE __device__ __forceinline__
#else
#include <cmath>
#include <cstring>
#include <deque>
#include <vector>
#define SRU_ASR_DEVICE inline
#endif

namespace sru_asr::SRU_ASR_VARIANT {

constexpr int kLanes = 32;

// What a number in memory is computed in, and how it is read and written.
template <class Storage>
struct Real {
  using type = Storage;
};
#if defined(__CUDACC__)
using bfloat16 = __nv_bfloat16;
using float16 = __half;
SRU_ASR_DEVICE float real(bfloat16 x) { return __bfloat162float(x); }
SRU_ASR_DEVICE float real(float16 x) { return __half2float(x); }
SRU_ASR_DEVICE void put(bfloat16& to, float x) { to = __float2bfloat16_rn(x); }
SRU_ASR_DEVICE void put(float16& to, float x) { to = __float2half_rn(x); }
#else
struct bfloat16 {
  uint16_t bits;
};
using float16 = _Float16;
inline float real(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline float real(float16 x) { return static_cast<float>(x); }
inline void put(bfloat16& to, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  to.bits = x == x ? (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16 : 0x7fc0;
}
inline void put(float16& to, float x) { to = static_cast<float16>(x); }
#endif
template <>
struct Real<bfloat16> {
  using type = float;
};
template <>
struct Real<float16> {
  using type = float;
};
SRU_ASR_DEVICE float real(float x) { return x; }
SRU_ASR_DEVICE double real(double x) { return x; }
SRU_ASR_DEVICE void put(float& to, float x) { to = x; }
SRU_ASR_DEVICE void put(double& to, double x) { to = x; }

#if defined(__CUDACC__)

// In a register of each lane.
template <class T>
struct PerLane {
  T value;
  SRU_ASR_DEVICE T& operator[](int) { return value; }
};

template <class Body>
SRU_ASR_DEVICE void each_lane(Body body) {
  body(static_cast<int>(threadIdx.x));
}

struct Copies {
  // 4, 8 or 16 bytes, aligned so.
  template <int kBytes>
  SRU_ASR_DEVICE void add(void* to, const void* from) {
    const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    if constexpr (kBytes == 16)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
    else
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(from), "n"(kBytes) : "memory");
  }
  // What was added since the last call is a group.
  SRU_ASR_DEVICE void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  // Until at most kPending groups are under way; lanes come together.
  template <int kPending>
  SRU_ASR_DEVICE void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
    __syncwarp();
  }
};

// Stays in a register: else the compiler would rather work it out each time anew.
SRU_ASR_DEVICE float keep(float x) {
  asm volatile("" : "+f"(x));
  return x;
}
SRU_ASR_DEVICE double keep(double x) {
  asm volatile("" : "+d"(x));
  return x;
}
template <class T>
SRU_ASR_DEVICE T* keep(T* x) {
  asm volatile("" : "+l"(x));
  __builtin_assume(__isGlobal(x));
  return x;
}

// Between passages that are no copies' business.
SRU_ASR_DEVICE void lanes_meet() { __syncwarp(); }

// The greater one; NaN if one is.
SRU_ASR_DEVICE float maximum(float a, float b) {
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(a) : "f"(a), "f"(b));
  return a;
}
SRU_ASR_DEVICE float exponential(float x) {
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(x) : "f"(x * 1.44269504f));
  return x;
}
SRU_ASR_DEVICE float reciprocal(float x) {
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(x) : "f"(x));
  return x;
}
SRU_ASR_DEVICE double maximum(double a, double b) { return a < b ? b : a; }
SRU_ASR_DEVICE double exponential(double x) { return ::exp(x); }
SRU_ASR_DEVICE double reciprocal(double x) { return 1 / x; }

#else

template <class T>
struct PerLane {
  T values[kLanes];
  T& operator[](int lane) { return values[lane]; }
};

struct Emulation {
  bool at_once = false;      // copies arrive
  bool last_lane_first = false;
  int lane = 0;  // whose turn it is
};
inline thread_local Emulation emulation;

template <class Body>
void each_lane(Body body) {
  for (int i = 0; i < kLanes; ++i) {
    emulation.lane = emulation.last_lane_first ? kLanes - 1 - i : i;
    body(emulation.lane);
  }
}

// Of all lanes.
struct Copies {
  struct Copy {
    void* to;
    const void* from;
    int bytes;
  };
  struct {
    std::vector<Copy> adding;
    std::deque<std::vector<Copy>> groups;
  } lanes[kLanes];

  template <int kBytes>
  void add(void* to, const void* from) {
    if (reinterpret_cast<uintptr_t>(to) % kBytes || reinterpret_cast<uintptr_t>(from) % kBytes) __builtin_trap();
    if (emulation.at_once)
      std::memcpy(to, from, kBytes);
    else
      std::memset(to, 0xff, kBytes), lanes[emulation.lane].adding.push_back({to, from, kBytes});
  }
  void commit() {
    auto& mine = lanes[emulation.lane];
    mine.groups.push_back(std::move(mine.adding));
    mine.adding.clear();
  }
  template <int kPending>
  void wait() {
    for (auto& mine : lanes)
      for (; mine.groups.size() > kPending; mine.groups.pop_front())
        for (const Copy& copy : mine.groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
  }
};

template <class T>
T keep(T x) {
  return x;
}
inline void lanes_meet() {}
template <class Number>
Number maximum(Number a, Number b) {
  return a < b ? b : a;
}
template <class Number>
Number exponential(Number x) {
  return std::exp(x);
}
template <class Number>
Number reciprocal(Number x) {
  return 1 / x;
}

#endif

// As in simd.h: both gates for one division. Below -40 a gate is zero in any case; NaN stays.
template <bool, class Number>
SRU_ASR_DEVICE Gates<Number> gates(Number a, Number b) {
  const Number e_a = exponential(-maximum(a, Number(-40))), e_b = exponential(-maximum(b, Number(-40)));
  const Number one_plus_a = e_a + 1, one_plus_b = e_b + 1;
  const Number inverse = reciprocal(one_plus_a * one_plus_b);
  const Number f = one_plus_b * inverse, r = one_plus_a * inverse;
  return {f, r, e_a * f, e_b * r};
}

}  // namespace sru_asr::SRU_ASR_VARIANT
