// Multiplication and addition in one instruction where the instruction set has it, asked for by name: the compiler is
// not to choose it for some lanes and not for others.
#pragma once

#include "doubles.hpp"

namespace pushforward::PF_ISA {

// a * b + c, rounded once, or twice where the instruction set cannot.
PF_HD Doubles fused(Doubles a, Doubles b, Doubles c) {
#if defined(__AVX512F__)
  return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__) && defined(__AVX2__)
  return (Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}
PF_HD Doubles fused(double a, Doubles b, Doubles c) { return fused(Doubles{} + a, b, c); }

PF_HD Doubles larger_of(Doubles a, Doubles b) { return a > b ? a : b; }
PF_HD Doubles smaller_of(Doubles a, Doubles b) { return a < b ? a : b; }
PF_HD Doubles absolute(Doubles x) { return (Doubles)((Longs)x & INT64_MAX); }

PF_HD Doubles square_root(Doubles x) {
#if defined(__AVX512F__)
  return (Doubles)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX__)
  return (Doubles)_mm256_sqrt_pd((__m256d)x);
#elif defined(__SSE2__)
  return (Doubles)_mm_sqrt_pd((__m128d)x);
#else
  Doubles root;
  for (int i = 0; i < double_lanes; ++i) root[i] = __builtin_sqrt(x[i]);
  return root;
#endif
}

// 1 / x within 2^-27 of itself, for positive normal x; NaN for infinity.
PF_HD Doubles rough_reciprocal(Doubles x) {
#if defined(__AVX512F__)
  const Doubles r = (Doubles)_mm512_rcp14_pd((__m512d)x);  // 14 bits, doubled by a step of Newton's
  return fused(r, fused(-x, r, Doubles{} + 1.0), r);
#else
  return 1.0 / x + (x - x);
#endif
}

// Which lanes of a mask are set, as bits.
PF_HD unsigned bits_of(Longs mask) {
#if defined(__AVX512DQ__)
  return _mm512_movepi64_mask((__m512i)mask);
#elif defined(__AVX__)
  return unsigned(_mm256_movemask_pd((__m256d)mask));
#elif defined(__SSE2__)
  return unsigned(_mm_movemask_pd((__m128d)mask));
#else
  unsigned bits = 0;
  for (int lane = 0; lane < double_lanes; ++lane) bits |= unsigned(mask[lane] & 1) << lane;
  return bits;
#endif
}

}  // namespace pushforward::PF_ISA
