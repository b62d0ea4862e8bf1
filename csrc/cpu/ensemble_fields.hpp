// Right-hand sides that come with the library. Those of a fixed dimension are written for one vector and are compiled
// into the stages; the others have the signature of a user's function.
#pragma once

#include "../core/logarithm.hpp"
#include "ensemble.hpp"
#include "fused.hpp"

namespace pushforward::PF_ISA {

// A function of the user's, called for a block at a time.
struct Called {
  static constexpr int dim = 0, parameters = 0;
};

// y0' = y1, y1' = mu (1 - y0^2) y1 - y0
struct VanDerPol {
  static constexpr int dim = 2, parameters = 1;
  PF_HD static void rate(Doubles, const Doubles (&y)[2], const Doubles (&p)[1], Doubles (&dy)[2]) {
    dy[0] = y[1];
    dy[1] = fused(p[0] * (1.0 - y[0] * y[0]), y[1], -y[0]);
  }
};

// y0' = sigma (y1 - y0), y1' = y0 (rho - y2) - y1, y2' = y0 y1 - beta y2, with parameters sigma, rho, beta
struct Lorenz {
  static constexpr int dim = 3, parameters = 3;
  PF_HD static void rate(Doubles, const Doubles (&y)[3], const Doubles (&p)[3], Doubles (&dy)[3]) {
    dy[0] = p[0] * (y[1] - y[0]);
    dy[1] = fused(y[0], p[1] - y[2], -y[1]);
    dy[2] = fused(y[0], y[1], -(p[2] * y[2]));
  }
};

// y' = A y; params is A by rows, [dim, dim] or [dim, dim][lanes].
template <bool shared>
void linear_rate(int64_t lanes, int64_t dim, const double*, const double* y, const double* params, double* dy) {
  for (int64_t i = 0; i < dim; ++i) {
    for (int64_t l = 0; l < lanes; l += double_lanes) {
      Doubles sum{};
      for (int64_t j = 0; j < dim; ++j) {
        const int64_t at = i * dim + j;
        const Doubles a = shared ? Doubles{} + params[at] : load_doubles(params + at * lanes + l);
        sum = fused(a, load_doubles(y + j * lanes + l), sum);
      }
      store_doubles(dy + i * lanes + l, sum);
    }
  }
}

// Velocity of the linear path from a standard normal to a mixture of K Gaussians, components k of variances c_k:
//   v = sum_k r_k (m_k + g_k (y - t m_k)), g_k = (t c_k - (1 - t)) / V_k, V_k = t^2 c_k + (1 - t)^2,
//   r_k proportional to w_k prod_i V_ki^-1/2 exp(-(y_i - t m_ki)^2 / (2 V_ki)).
// params: K, then log(w_k) [K], m [K, dim], c [K, dim].
inline void mixture_rate(int64_t lanes, int64_t dim, const double* t, const double* y, const double* params,
                         double* dy) {
  const int64_t count = int64_t(params[0]);
  const double *log_weight = params + 1, *mean = log_weight + count, *variance = mean + count * dim;
  for (int64_t l = 0; l < lanes; l += double_lanes) {
    const Doubles a = load_doubles(t + l), s = 1.0 - a, s2 = s * s, a2 = a * a;
    // Sums relative to the largest exponent so far.
    Doubles most{}, total{};
    for (int64_t k = 0; k < count; ++k) {
      const double *m = mean + k * dim, *c = variance + k * dim;
      Doubles exponent = Doubles{} + 2 * log_weight[k];
      Doubles v{}, log_v{};
      for (int64_t i = 0; i < dim; ++i) {
        if (i == 0 || c[i] != c[i - 1]) {
          v = fused(a2, Doubles{} + c[i], s2);
          log_v = logarithm<ManyDoubles>(v);
        }
        const Doubles z = fused(-a, Doubles{} + m[i], load_doubles(y + i * lanes + l));
        exponent = exponent - log_v - z * z / v;
      }
      exponent = exponent * 0.5;
      const Doubles above = k == 0 ? Doubles{} + 1.0 : exponent - most;
      const Doubles ratio = k == 0 ? Doubles{} : exponential<ManyDoubles>(Doubles(-absolute(above)));
      const Longs leads = above > 0.0;
      most = leads ? exponent : most;
      const Doubles kept = leads ? ratio : Doubles{} + 1.0, share = leads ? Doubles{} + 1.0 : ratio;
      total = fused(total, kept, share);
      Doubles gain{};
      for (int64_t i = 0; i < dim; ++i) {
        if (i == 0 || c[i] != c[i - 1]) gain = (a * c[i] - s) / fused(a2, Doubles{} + c[i], s2);
        double* to = dy + i * lanes + l;
        const Doubles z = fused(-a, Doubles{} + m[i], load_doubles(y + i * lanes + l));
        const Doubles velocity = fused(gain, z, Doubles{} + m[i]);
        const Doubles before = k == 0 ? Doubles{} : load_doubles(to) * kept;
        store_doubles(to, fused(share, velocity, before));
      }
    }
    for (int64_t i = 0; i < dim; ++i) {
      double* to = dy + i * lanes + l;
      store_doubles(to, load_doubles(to) / total + (most - most));
    }
  }
}

}  // namespace pushforward::PF_ISA
