// An embedded Runge-Kutta pair whose last stage is the first of the next step. The numbers come from Python, where they
// are checked (solvers/adaptive/pairs.py): there is one table of them.
#pragma once

#include <cstdint>

namespace pushforward {

constexpr int max_pair_stages = 7, max_dense_degree = 4;

// Stage i is f(t + c_i h, y + h sum_j a_ij k_j); the last row of a gives the new state; e is b - b_hat; dense output is
// y + h sum_i k_i sum_q dense_iq theta^(q+1).
struct EmbeddedPair {
  int stages;
  double a[max_pair_stages][max_pair_stages];
  double c[max_pair_stages], e[max_pair_stages];
  double dense[max_pair_stages][max_dense_degree];
};

}  // namespace pushforward
