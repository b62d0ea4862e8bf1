// One element of a linear combination. The CPU loops call it on vectors and on single numbers, a GPU thread on one.
#pragma once

#include "config.hpp"

namespace pushforward::PF_ISA {

// From left to right, multiply then add, each rounded (no contraction): so the sum of an element never depends on which
// loop it fell into, and the torch reference can reproduce it.
template <int K, class Value, class Weight>
PF_HD Value weighted_sum(const Value (&x)[K], const Weight* weight) {
  Value sum = x[0] * weight[0];
  for (int k = 1; k < K; ++k) sum = sum + x[k] * weight[k];
  return sum;
}

}  // namespace pushforward::PF_ISA
