// Kernels of squared distances, summed over bandwidths, and their derivatives.
#pragma once

#include "config.hpp"

namespace pushforward::PF_ISA {

// `rate` is 1 / (2 h^2). `Math` has exponential and root for the Value, a number or a vector of them.

struct Gaussian {
  template <class Math, class Value, class Real>
  PF_HD static Value kernel(Value r2, Real rate) {
    return Math::exponential(r2 * -rate);
  }
  template <class Math, class Value, class Real>
  PF_HD static Value slope(Value r2, Real rate) {
    return Math::exponential(r2 * -rate) * -rate;
  }
};

struct RationalQuadratic {
  template <class Math, class Value, class Real>
  PF_HD static Value kernel(Value r2, Real rate) {
    return Real(1) / (r2 * rate + Real(1));
  }
  template <class Math, class Value, class Real>
  PF_HD static Value slope(Value r2, Real rate) {
    const Value k = Real(1) / (r2 * rate + Real(1));
    return k * k * -rate;
  }
};

// -r, for the energy distance. Where two points coincide it has no derivative; zero is a subgradient.
struct Distance {
  template <class Math, class Value, class Real>
  PF_HD static Value kernel(Value r2, Real) {
    return -Math::root(r2);
  }
  template <class Math, class Value, class Real>
  PF_HD static Value slope(Value r2, Real) {
    const Value zero = Value{};
    return r2 == zero ? zero : Real(-0.5) / Math::root(r2);
  }
};

}  // namespace pushforward::PF_ISA
