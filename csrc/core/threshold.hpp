// Dynamic thresholding: what becomes of a sample's two order statistics, and of one element.
#pragma once

#include "config.hpp"

namespace pushforward::PF_ISA {

// The quantile between two neighbouring order statistics, cut to [floor, cap]; a NaN stays one. Equal neighbours are
// their own quantile, or two infinities would give a NaN.
template <class Wide>
PF_HD Wide limit_of(Wide low, Wide high, Wide fraction, Wide floor, Wide cap) {
  const Wide quantile = low == high || fraction == 0 ? low : low + (high - low) * fraction;
  const Wide raised = quantile < floor ? floor : quantile;
  return raised > cap ? cap : raised;
}

// One element, or a vector of them; `scale` is floor / limit, and a NaN where the limit is.
template <class Value>
PF_HD Value limited(Value x, Value limit, Value scale) {
  const Value below = x > limit ? limit : x;
  return (below < -limit ? -limit : below) * scale;
}

}  // namespace pushforward::PF_ISA
