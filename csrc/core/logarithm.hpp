// log of positive normal doubles, from additions, multiplications, one division and operations on bits: the same bits
// everywhere, within two units in the last place.
#pragma once

#include "exponential.hpp"

namespace pushforward::PF_ISA {

template <class Lanes, class D = typename Lanes::D>
PF_HD D logarithm(D x) {
  using L = typename Lanes::L;
  constexpr int64_t root_half = 0x3FE6A09E667F3BCD;  // bits of sqrt(1/2)
  constexpr double magic = 0x1.8p52;                 // added to its bits, a small integer becomes a number
  const L bits = Lanes::template bits<L>(x);
  const L exponent = (bits - root_half) >> 52;
  const D n = Lanes::template bits<D>(L(exponent + int64_t(0x4338000000000000))) - magic;
  const D m = Lanes::template bits<D>(L(bits - (exponent << 52)));  // in [sqrt(1/2), sqrt(2))
  // log(m) = 2 artanh(s) with |s| <= 0.1716: the first term left out is below 2^-57 of the sum.
  const D s = (m - 1.0) / (m + 1.0);
  const D z = s * s;
  D p = z * (1.0 / 21);
  p = (p + 1.0 / 19) * z;
  p = (p + 1.0 / 17) * z;
  p = (p + 1.0 / 15) * z;
  p = (p + 1.0 / 13) * z;
  p = (p + 1.0 / 11) * z;
  p = (p + 1.0 / 9) * z;
  p = (p + 1.0 / 7) * z;
  p = (p + 1.0 / 5) * z;
  p = (p + 1.0 / 3) * z;
  const D twice = s + s;
  // 42 bits of log(2): exact multiples.
  return n * 0.6931471805598903 + (twice + (twice * p + n * 5.497923018708371e-14));
}

}  // namespace pushforward::PF_ISA
