// One lane: the operations the functors need beyond + and *, for plain numbers. cpu/simd.hpp has them for vectors.
#pragma once

#include <cmath>
#include <cstring>

#include "config.hpp"

namespace pushforward::PF_ISA {

struct OneLane {
  using F = float;
  using I = int32_t;
  using U = uint32_t;

  PF_HD static void multiply(U a, uint32_t b, U& high, U& low) {
    const uint64_t product = uint64_t(a) * b;
    high = uint32_t(product >> 32);
    low = uint32_t(product);
  }
  PF_HD static F to_float(U x) { return F(x); }  // to nearest
  PF_HD static F to_float(I x) { return F(x); }
  PF_HD static F sqrt(F x) { return ::sqrtf(x); }
  PF_HD static F select(I mask, F yes, F no) { return mask ? yes : no; }  // mask: 0 or -1
  template <class To, class From>
  PF_HD static To bits(From x) {
    To y;
    static_assert(sizeof(To) == sizeof(From));
    memcpy(&y, &x, sizeof(y));
    return y;
  }
};

}  // namespace pushforward::PF_ISA
