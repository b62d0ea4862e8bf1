// Uniform numbers in the open interval (0, 1): midpoints of 2^23 or 2^52 cells, exact. kernels/philox.py defines them.
#pragma once

#include "philox.hpp"

namespace pushforward::PF_ISA {

// One word, 23 bits of it: 1/2 fits below the last one.
template <class Lanes, class F = typename Lanes::F, class U = typename Lanes::U>
PF_HD F uniform(U word) {
  return (Lanes::to_float(Lanes::template bits<typename Lanes::I>(U(word >> 9))) + 0.5f) * 0x1p-23f;
}

// Two words, 26 bits of each, in lanes of 64 bits whose upper halves are not read. D: double, or a vector of them.
template <class D, class U>
PF_HD D uniform_double(U high, U low) {
  const U cell = ((high & 0xFFFFFFFFu) >> 6 << 26) | ((low & 0xFFFFFFFFu) >> 6);
  const U shifted = cell | 0x4330000000000000u;  // the bits of 2^52 + cell
  D value;
  static_assert(sizeof(value) == sizeof(shifted));
  __builtin_memcpy(&value, &shifted, sizeof(value));
  return ((value - 0x1p52) + 0.5) * 0x1p-52;
}

}  // namespace pushforward::PF_ISA
