// 16-bit storage: exact widening to float, rounding to nearest even on the way back, written in integer operations
// so that the same text serves a single number and a vector (U: uint32_t lanes, F: float lanes).
#pragma once

#include "config.hpp"

namespace pushforward::PF_ISA {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <class Lanes, class U = typename Lanes::U, class F = typename Lanes::F>
PF_HD F widen_bfloat16(U bits) {
  return Lanes::template bits<F>(U(bits << 16));
}

template <class Lanes, class U = typename Lanes::U, class F = typename Lanes::F>
PF_HD U narrow_bfloat16(F value) {
  using I = typename Lanes::I;
  const U bits = Lanes::template bits<U>(value);
  const U rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  // Rounding could carry a NaN into infinity or beyond: 0x7F800000 < |bits| is a NaN; minus one keeps the sign test.
  const I not_nan = Lanes::template bits<I>(U((bits & 0x7FFFFFFFu) + 0x007FFFFFu));  // negative for a NaN only
  const U nan = Lanes::template bits<U>(I(not_nan >> 31));
  return (rounded & ~nan) | (nan & 0x7FC0u);
}

template <class Lanes, class U = typename Lanes::U, class F = typename Lanes::F>
PF_HD F widen_half(U bits) {
  using I = typename Lanes::I;
  // Shift the exponent into place and multiply by 2^112: exact, and it normalises subnormals.
  const F scaled = Lanes::template bits<F>(U((bits & 0x7FFFu) << 13)) * 0x1p112f;
  // Infinity and NaN (exponent 31) become exponent 143 by that: set it to 255.
  const U magnitude = Lanes::template bits<U>(scaled);
  const U special = Lanes::template bits<U>(I(-Lanes::template bits<I>(U(((bits & 0x7C00u) + 0x0400u) >> 15 & 1u))));
  return Lanes::template bits<F>(U(magnitude | (special & 0x7F800000u) | ((bits & 0x8000u) << 16)));
}

template <class Lanes, class U = typename Lanes::U, class F = typename Lanes::F>
PF_HD U narrow_half(F value) {
  using I = typename Lanes::I;
  const U bits = Lanes::template bits<U>(value);
  const U sign = bits >> 16 & 0x8000u;
  const U magnitude = bits & 0x7FFFFFFFu;
  // Normal results: round away 13 bits of the significand, to even; too large ones carry on and are cut to infinity.
  const U normal = (magnitude + 0x0FFFu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  // Subnormal ones (below 2^-14): adding 1/2 makes the addition round to 2^-24.
  const F shifted = Lanes::template bits<F>(magnitude) + 0.5f;
  const U subnormal = Lanes::template bits<U>(shifted) - 0x3F000000u;
  const U is_subnormal = Lanes::template bits<U>(I((Lanes::template bits<I>(magnitude) - 0x38800000) >> 31));
  const U is_large = Lanes::template bits<U>(I((0x477FEFFF - Lanes::template bits<I>(magnitude)) >> 31));
  const U is_nan = Lanes::template bits<U>(I((0x7F800000 - Lanes::template bits<I>(magnitude)) >> 31));
  U result = (subnormal & is_subnormal) | (normal & ~is_subnormal);
  result = (result & ~is_large) | (is_large & 0x7C00u) | (is_nan & 0x0200u);
  return result | sign;
}

}  // namespace pushforward::PF_ISA
