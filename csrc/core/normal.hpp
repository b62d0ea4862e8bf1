// Box-Muller with polynomials of our own: the same bits on every machine, which no library's log and sincos give.
// Only additions, multiplications, square roots and integer operations, never contracted (-ffp-contract=off), in the
// order of kernels/philox.py, which also says how the constants were made and how exact they are.
#pragma once

#include "config.hpp"
#include "philox.hpp"

namespace pushforward::PF_ISA {

// log((word + 1/2) 2^-32)
template <class Lanes, class F = typename Lanes::F, class U = typename Lanes::U>
PF_HD F log_uniform(U word) {
  using I = typename Lanes::I;
  constexpr int32_t sqrt_half = 0x3F3504F3;
  const F u = Lanes::to_float(word) * 0x1p-32f + 0x1p-33f;
  const I bits = Lanes::template bits<I>(u) - sqrt_half;
  const I exponent = bits >> 23;  // 0 or negative
  // Close to one a float has lost the last bits of the word, so u - 1 comes from the word's complement.
  const F f = Lanes::select(~(exponent >> 31), Lanes::to_float(U(~word)) * -0x1p-32f - 0x1p-33f,
                            Lanes::template bits<F>(I((bits & 0x7FFFFF) + sqrt_half)) - 1.0f);
  const F f2 = f * f, e = Lanes::to_float(exponent);
  F p = f * -0.07634499669075012f;
  p = (p + 0.127615824341774f) * f;
  p = (p + -0.13160184025764465f) * f;
  p = (p + 0.14201757311820984f) * f;
  p = (p + -0.16623356938362122f) * f;
  p = (p + 0.20001226663589478f) * f;
  p = (p + -0.2500081956386566f) * f;
  p = p + 0.3333333134651184f;
  const F tail = p * (f2 * f) + e * 1.428606765330187e-06f - f2 * 0.5f;
  return tail + f + e * 0.693145751953125f;
}

// Two words make two normals.
template <class Lanes, class F = typename Lanes::F, class U = typename Lanes::U>
PF_HD void box_muller(U radius, U angle, F& x, F& y) {
  using I = typename Lanes::I;
  const F r = Lanes::sqrt(log_uniform<Lanes>(radius) * -2.0f);
  // In units of 2^-25 turns, an odd number of 25 bits; the angle itself does not fit into a float.
  const I turns = Lanes::template bits<I>(U((angle >> 8) * 2u + 1u));
  const I quarter = (turns + (1 << 22)) >> 23;
  const F t = Lanes::to_float(I(turns - (quarter << 23))) * 0x1p-25f;  // exact, |t| <= 1/8 turn
  const F t2 = t * t;
  F sin = t2 * -75.39359283447266f;
  sin = (sin + 81.59235382080078f) * t2;
  sin = (sin + -41.3416633605957f) * t2;
  sin = (sin + 6.2831854820251465f) * t;
  F cos = t2 * 59.229244232177734f;
  cos = (cos + -85.4432373046875f) * t2;
  cos = (cos + 64.93932342529297f) * t2;
  cos = (cos + -19.739208221435547f) * t2 + 1.0f;
  const I odd = -(quarter & 1);  // 0 or -1 in each lane
  const F along = Lanes::select(odd, sin, cos), across = Lanes::select(odd, cos, sin);
  const I flip_x = ((quarter + 1) & 2) << 30, flip_y = (quarter & 2) << 30;  // the sign bit
  x = r * Lanes::template bits<F>(I(Lanes::template bits<I>(along) ^ flip_x));
  y = r * Lanes::template bits<F>(I(Lanes::template bits<I>(across) ^ flip_y));
}

}  // namespace pushforward::PF_ISA
