// One step of an embedded Runge-Kutta pair, element by element. The CPU loops call it on vectors and on single numbers,
// a GPU thread on one.
#pragma once

#include <cmath>

#include "ordered_sum.hpp"

namespace pushforward {

constexpr int max_stages = 16, max_estimates = 2, max_dense = 4;
constexpr int max_step_rows = 1 + max_estimates + max_dense;

// The tableau as rows of weights: row 0 makes the new state, the next `estimates` rows the error estimates, the rest
// what dense output needs. A weight of zero is no term at all: what its stage holds, NaN too, does not matter.
struct StepRows {
  int stages, estimates, rows;  // rows = 1 + estimates + number of rows for dense output
  double weight[max_step_rows][max_stages];
  uint32_t used[max_stages];  // bit r: weight[r][stage] is not zero
  double rtol, atol;
};

}  // namespace pushforward

namespace pushforward::PF_ISA {

// The coefficient of a stage: the product with the step size in double, rounded once.
template <class Wide>
PF_HD Wide step_coefficient(double h, double weight) {
  return Wide(h * weight);
}

// Add one stage's terms to the sums of all rows, for `several` values at a time. Sums start at x (row 0) and at zero;
// stages come from left to right. coefficient(row, i) is the one of the i-th value.
template <int rows, int several, class Value, class Coefficient>
PF_HD void add_stage(Value (&sum)[rows][several], const Value (&k)[several], const Coefficient& coefficient,
                     uint32_t used) {
  for (int r = 0; r < rows; ++r) {
    if (!(used >> r & 1)) continue;
    for (int i = 0; i < several; ++i) sum[r][i] = sum[r][i] + k[i] * coefficient(r, i);
  }
}

template <class Value>
PF_HD Value larger(const Value& a, const Value& b) {
  return a > b ? a : b;
}

// An error estimate over its tolerance, atol + rtol max(|before|, |after|). The square of this, in double, is a term of
// the row's ordered sum. `after` is the new state as it is stored; where it is not finite the result is NaN, whatever
// the estimate. `least` is the smallest normal number: no error counts zero even where the tolerance is zero.
template <class Value>
PF_HD Value scaled_error(const Value& estimate, const Value& before, const Value& after, const Value& rtol,
                         const Value& atol, const Value& least) {
  const Value size = larger(larger(before, Value(-before)), larger(after, Value(-after)));
  return estimate / larger(Value(atol + rtol * size), least) + (after - after);
}

// The error norm of a sample from the sum of its squares: the root of their mean.
PF_HD double error_norm(double sum_of_squares, int64_t elements) {
  return elements == 0 ? 0.0 : ::sqrt(sum_of_squares / double(elements));
}

}  // namespace pushforward::PF_ISA
