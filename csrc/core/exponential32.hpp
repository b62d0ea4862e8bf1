// exp of floats up to 0, from additions, multiplications and operations on bits: the same bits everywhere, and at most
// 1.5 ulp from the exact value (tests/kernels/test_discrepancy.py measures it). Below -87 it is exp(-87) = 1.6e-38.
#pragma once

#include "config.hpp"

namespace pushforward::PF_ISA {

template <class Lanes, class F = typename Lanes::F>
PF_HD F exponential32(F x) {
  using I = typename Lanes::I;
  constexpr float round = 0x1.8p23f;  // added, it leaves the nearest integer in the low bits
  const F lowest = F{} + -87.0f;
  x = x < lowest ? lowest : x;  // a NaN stays
  const F shifted = x * 1.44269502162933f + round;
  const F n = shifted - round;
  F r = x - n * 0.693145751953125f;  // 15 bits of log(2): exact multiples
  r = r - n * 1.428606765330187e-06f;
  // (exp(r) - 1 - r) / r^2, minimax in the relative error of exp: 3.1e-9
  F p = r * 0.0013814539415761828f;
  p = (p + 0.00836874544620514f) * r;
  p = (p + 0.04166838899254799f) * r;
  p = (p + 0.1666652113199234f) * r;
  p = p + 0.4999999403953552f;
  const F y = p * (r * r) + r + 1.0f;
  return y * Lanes::template bits<F>(I((Lanes::template bits<I>(shifted) << 23) + 0x3F800000));
}

}  // namespace pushforward::PF_ISA
