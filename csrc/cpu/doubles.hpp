// Lanes of doubles, for core/exponential.hpp.
#pragma once

#include "../core/exponential.hpp"
#include "simd.hpp"

namespace pushforward::PF_ISA {

typedef int64_t Longs __attribute__((vector_size(vector_bytes)));
typedef float HalfFloats __attribute__((vector_size(vector_bytes / 2)));
constexpr int double_lanes = lanes / 2;

struct ManyDoubles {
  using D = Doubles;
  using L = Longs;

  template <class To, class From>
  PF_HD static To bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    return (To)x;
  }
  PF_HD static D zero_below(D x, double lowest, D value) { return (D)((L)value & ~(x < lowest)); }
};

PF_HD Doubles load_doubles(const double* from) { return load<Doubles>(from); }
PF_HD Doubles load_doubles(const float* from) { return __builtin_convertvector(load<HalfFloats>(from), Doubles); }
PF_HD void store_doubles(double* to, Doubles x) { store(to, x); }
PF_HD void store_doubles(float* to, Doubles x) { store(to, __builtin_convertvector(x, HalfFloats)); }

}  // namespace pushforward::PF_ISA
