// The four storage formats, for one thread: how a number is read, widened, narrowed and tested.
#pragma once

#include "../core/lanes.hpp"
#include "../core/storage.hpp"
#include "../cpu/job.hpp"
#include "launch.hpp"

namespace pushforward::PF_ISA {

// `several`: elements of one thread, 16 bytes or a multiple, and whole blocks of four random numbers.
struct Float32 {
  using Stored = float;
  using Wide = float;
  static constexpr int several = 4;
  PF_HD static Wide widen(Stored x) { return x; }
  PF_HD static Stored narrow(Wide x) { return x; }
};

struct Float64 {
  using Stored = double;
  using Wide = double;
  static constexpr int several = 4;
  PF_HD static Wide widen(Stored x) { return x; }
  PF_HD static Stored narrow(Wide x) { return x; }
};

struct Brain {
  using Stored = BFloat16;
  using Wide = float;
  static constexpr int several = 8;
  PF_HD static Wide widen(Stored x) { return widen_bfloat16<OneLane>(uint32_t(x.bits)); }
  PF_HD static Stored narrow(Wide x) {
#if defined(__CUDA_ARCH__)  // the same but for the bits of a NaN
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return {bits};
#else
    return {uint16_t(narrow_bfloat16<OneLane>(x))};
#endif
  }
};

struct Float16 {
  using Stored = Half;
  using Wide = float;
  static constexpr int several = 8;
  PF_HD static Wide widen(Stored x) {
#if defined(__CUDA_ARCH__)
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
#else
    return widen_half<OneLane>(uint32_t(x.bits));
#endif
  }
  PF_HD static Stored narrow(Wide x) {
#if defined(__CUDA_ARCH__)
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return {bits};
#else
    return {uint16_t(narrow_half<OneLane>(x))};
#endif
  }
};

template <class Wide>
PF_HD bool is_finite(Wide x) {
  return x - x == 0;
}

// Call body with the format of a dtype.
template <class Body>
void with_format(Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::float32:
      return body(Float32());
    case Dtype::float64:
      return body(Float64());
    case Dtype::bfloat16:
      return body(Brain());
    default:
      return body(Float16());
  }
}

}  // namespace pushforward::PF_ISA
