// Resampling in integers, so that every order of summation gives the same ancestors. kernels/resample.py is the
// definition.
#pragma once

#include "config.hpp"
#include "exponential.hpp"
#include "lanes.hpp"
#include "normal.hpp"

namespace pushforward::PF_ISA {

// Bits after the point of the integer weights, for at most `most` particles or ancestors: their sum stays below 2^62.
PF_HD int weight_bits(int64_t most) {
  int log = 0;
  while ((int64_t(1) << log) < most) ++log;  // ceil(log2(most))
  return 62 - log < 52 ? 62 - log : 52;
}

// The same for M + 1 exponential spacings, each below 2^5.
PF_HD int spacing_bits(int64_t ancestors) {
  int log = 0;
  while ((int64_t(1) << log) < ancestors + 1) ++log;
  return 57 - log < 46 ? 57 - log : 46;
}

// 2^exponent
PF_HD double power_of_two(int exponent) { return OneLane::bits<double>(int64_t(1023 + exponent) << 52); }

// floor(a b / 2^64) for b < 2^62
PF_HD uint64_t multiply_high(uint64_t a, uint64_t b) {
  const uint64_t a0 = a & 0xFFFFFFFFu, a1 = a >> 32, b0 = b & 0xFFFFFFFFu, b1 = b >> 32;
  const uint64_t middle = a1 * b0 + (a0 * b0 >> 32);
  const uint64_t low = a0 * b1 + (middle & 0xFFFFFFFFu);
  return a1 * b1 + (middle >> 32) + (low >> 32);
}

// A uniform integer in [0, total), from two words; its distribution is exact to 2^-64.
PF_HD int64_t uniform_below(uint32_t high, uint32_t low, int64_t total) {
  return int64_t(multiply_high(uint64_t(high) << 32 | low, uint64_t(total)));
}

// Ancestor j is the first particle whose cumulative weight exceeds floor((j total + offset) / M): exact thresholds of
// systematic (one offset for all j) and stratified (one for each) resampling.
struct Strata {
  int64_t quotient, remainder, ancestors;

  PF_HD Strata(int64_t total, int64_t ancestors)
      : quotient(total / ancestors), remainder(total % ancestors), ancestors(ancestors) {}
  PF_HD Strata(int64_t quotient, int64_t remainder, int64_t ancestors)
      : quotient(quotient), remainder(remainder), ancestors(ancestors) {}
  PF_HD int64_t threshold(int64_t j, int64_t offset) const {
    return j * quotient + (j * remainder + offset) / ancestors;
  }
};

// Exponential spacing in fixed point: -log of the word's uniform number; scale is 2^spacing_bits.
PF_HD int64_t spacing(uint32_t word, double scale) {
  return to_fixed<OneDouble>(double(-log_uniform<OneLane>(word)), scale);
}

// Threshold of multinomial resampling for a sum of spacings; ratio is double(total) / double(sum of all spacings).
PF_HD int64_t order_threshold(int64_t sum, double ratio, int64_t total) {
  const int64_t threshold = int64_t(double(sum) * ratio);
  return threshold < total - 1 ? threshold : total - 1;
}

// M w = copies * total + left, for w <= total, although M w may need 93 bits. The estimate is off by one at most: its
// relative error is below 2^-50, and M < 2^32. So 64 bits that wrap are enough for what is left.
struct Division {
  int64_t count, total;
  double ratio;

  PF_HD Division(int64_t count, int64_t total) : count(count), total(total), ratio(double(count) / double(total)) {}
  PF_HD int64_t copies(int64_t w, int64_t& left) const {
    int64_t quotient = int64_t(double(w) * ratio);
    left = int64_t(uint64_t(w) * uint64_t(count) - uint64_t(quotient) * uint64_t(total));
    const int64_t low = -int64_t(left < 0), high = -int64_t(left >= total);  // 0 or -1
    quotient += low - high;
    left += (low & total) - (high & total);
    return quotient;
  }
};

PF_HD int bit_length(int64_t x) {  // of a positive number, or 0 for 0
#if defined(__CUDA_ARCH__)
  return 64 - __clzll(x);
#else
  return x > 0 ? 64 - __builtin_clzll(static_cast<unsigned long long>(x)) : 0;
#endif
}

// How far the remainders M w_i - floor(M w_i / total) total are shifted: their sum is `draws` times the total, which
// may need more than 62 bits.
PF_HD int remainder_shift(int64_t draws, int64_t total) {
  const int bits = bit_length(draws) + bit_length(total) - 62;
  return bits > 0 ? bits : 0;
}

// A step of SSP resampling, given the fractions of a child (times the total) that wait before it and after it: whether
// it makes a child, and whether another particle waits from then on.
struct SerialStep {
  bool child, changes;

  PF_HD SerialStep(int64_t before, int64_t waiting, int64_t total, uint32_t high, uint32_t low)
      : child(waiting < before),
        changes(uniform_below(high, low, child ? total - waiting : waiting) <
                (child ? before - waiting : waiting - before)) {}
};

// Where the words of "killing" begin that tell who survives: with a block of four after the N + 1 spacings.
PF_HD int64_t survival_word(int64_t particles) { return 4 * (particles / 4 + 1); }

// Whether a particle survives: with probability w / 2^bits, which is the largest of the integer weights.
PF_HD int64_t survives(int64_t w, uint32_t high, uint32_t low, int bits) {
  return int64_t(int64_t((uint64_t(high) << 32 | low) >> (64 - bits)) < w);
}

}  // namespace pushforward::PF_ISA
