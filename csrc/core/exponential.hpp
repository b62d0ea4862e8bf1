// exp of doubles up to 0, from additions, multiplications and operations on bits: the same bits everywhere.
// kernels/exponential.py is the definition and says how exact it is.
#pragma once

#include "config.hpp"
#include "lanes.hpp"

namespace pushforward::PF_ISA {

// Lanes of doubles; cpu/doubles.hpp has them for vectors.
struct OneDouble {
  using D = double;
  using L = int64_t;

  template <class To, class From>
  PF_HD static To bits(From x) {
    return OneLane::bits<To>(x);
  }
  PF_HD static D zero_below(D x, D lowest, D value) { return x < lowest ? 0.0 : value; }  // value, 0 where x < lowest
};

template <class Lanes, class D = typename Lanes::D>
PF_HD D exponential(D x) {
  using L = typename Lanes::L;
  constexpr double round = 0x1.8p52;  // added, it leaves the nearest integer in the low bits
  const D shifted = x * 1.4426950408889634 + round;
  const D n = shifted - round;
  D r = x - n * 0.6931471805598903;  // 42 bits of log(2): exact multiples
  r = r - n * 5.497923018708371e-14;
  D p = r * 2.5000060913375838e-08;
  p = (p + 2.763024836611497e-07) * r;
  p = (p + 2.7557586375990773e-06) * r;
  p = (p + 2.4801493098947543e-05) * r;
  p = (p + 0.00019841269506576398) * r;
  p = (p + 0.001388888894363007) * r;
  p = (p + 0.008333333333494463) * r;
  p = (p + 0.041666666666530155) * r;
  p = (p + 0.16666666666666413) * r;
  p = p + 0.5000000000000011;
  const D y = p * (r * r) + r + 1.0;
  const L scaled = Lanes::template bits<L>(y) + (Lanes::template bits<L>(shifted) << 52);
  return Lanes::zero_below(x, -708.0, Lanes::template bits<D>(scaled));
}

// The integer nearest to x * scale (to even on a tie), for 0 <= x * scale <= 2^52.
template <class Lanes, class D = typename Lanes::D, class L = typename Lanes::L>
PF_HD L to_fixed(D x, double scale) {
  return Lanes::template bits<L>(D(x * scale + 0x1p52)) - (int64_t(52 + 1023) << 52);
}

}  // namespace pushforward::PF_ISA
