// Logarithms and powers for step sizes: short polynomials, the same bits everywhere but for fused rounding. A factor of
// a step size that is off by 1e-8 costs nothing.
#pragma once

#include "doubles.hpp"
#include "fused.hpp"

namespace pushforward::PF_ISA {

// log2 of positive normal numbers, within 1e-7.
PF_HD Doubles rough_log2(Doubles x) {
  constexpr int64_t root_half = 0x3FE6A09E667F3BCD;  // bits of sqrt(1/2)
  const Longs bits = (Longs)x, exponent = (bits - root_half) >> 52;
  const Doubles n = (Doubles)(exponent + int64_t(0x4338000000000000)) - 0x1.8p52;  // to a number, by its low bits
  const Doubles m = (Doubles)(bits - (exponent << 52)) - 1.0;                     // in [-0.293, 0.415]
  // log2(1 + m) / m, interpolated at Chebyshev points
  Doubles q = fused(-0.14620353417912824, m, Doubles{} + 0.2342098511576519);
  q = fused(q, m, Doubles{} - 0.24882180563724218);
  q = fused(q, m, Doubles{} + 0.287075611159413);
  q = fused(q, m, Doubles{} - 0.3602419859067044);
  q = fused(q, m, Doubles{} + 0.48092403857744576);
  q = fused(q, m, Doubles{} - 0.7213527587652879);
  q = fused(q, m, Doubles{} + 1.442694957995562);
  return fused(q, m, n);
}

// 2^x for |x| < 1000, within 1e-8 of itself.
PF_HD Doubles rough_exp2(Doubles x) {
  const Doubles shifted = x + 0x1.8p52, r = x - (shifted - 0x1.8p52);
  // (2^r - 1) / r for |r| <= 1/2, interpolated at Chebyshev points
  Doubles q = fused(0.00015461447462985332, r, Doubles{} + 0.0013390867351400178);
  q = fused(q, r, Doubles{} + 0.009618056669887258);
  q = fused(q, r, Doubles{} + 0.05550357104252972);
  q = fused(q, r, Doubles{} + 0.2402265092234272);
  q = fused(q, r, Doubles{} + 0.6931471880293429);
  const Doubles y = fused(q, r, Doubles{} + 1.0);
  return (Doubles)((Longs)y + ((Longs)shifted << 52));
}

}  // namespace pushforward::PF_ISA
