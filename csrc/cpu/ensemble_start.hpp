// How trajectories of an ensemble start: the length of the first step.
#pragma once

#include <limits>

#include "../core/logarithm.hpp"
#include "ensemble.hpp"
#include "fused.hpp"

namespace pushforward::PF_ISA {

constexpr double endless = std::numeric_limits<double>::infinity();

// What every step needs, copied to where no store through a pointer can change it.
struct Constants {
  double start, end, direction, rtol;
  double min_step, least_share;  // the least step, and its share of the power of two below the time
  double max_step, mean;
  int64_t max_steps;
  StepControl control;
};

// Trajectories before their first step, in columns: states, slopes and step sizes; and room to work: a row of times,
// rows for states and slopes, and one more row.
struct StartRows {
  const double *y, *k;
  double *size, *clock, *point, *slope, *rate;
};

// Hairer, Norsett and Wanner 1993, II.4, for each trajectory; the probe stays within the interval. slopes(states, out)
// evaluates the right-hand side at the times in r.clock.
template <class Slopes>
void first_steps(const EnsembleJob& job, const Constants& c, int64_t columns, const StartRows& r, Slopes&& slopes) {
  const double longest = (c.end - c.start) * c.direction;
  for (int64_t l = 0; l < columns; l += double_lanes) {
    Doubles d0{}, d1{};
    for (int64_t i = 0; i < job.dim; ++i) {
      const Doubles y = load_doubles(r.y + i * columns + l), k = load_doubles(r.k + i * columns + l);
      const Doubles tolerance = fused(job.rtol, absolute(y), Doubles{} + job.atol[i]), r0 = y / tolerance,
                    r1 = k / tolerance;
      d0 = fused(r0, r0, d0);
      d1 = fused(r1, r1, d1);
    }
    d0 = square_root(d0 * c.mean);
    d1 = square_root(d1 * c.mean);
    const Longs tiny = (d0 < 1e-5) | (d1 < 1e-5);
    const Doubles probe = smaller_of(tiny ? Doubles{} + 1e-6 : 0.01 * d0 / d1, Doubles{} + longest);
    store_doubles(r.size + l, probe);
    store_doubles(r.rate + l, d1);
    store_doubles(r.clock + l, fused(c.direction, probe, Doubles{} + c.start));
    for (int64_t i = 0; i < job.dim; ++i) {
      const int64_t at = i * columns + l;
      store_doubles(r.point + at, fused(probe * c.direction, load_doubles(r.k + at), load_doubles(r.y + at)));
    }
  }
  slopes(r.point, r.slope);
  for (int64_t l = 0; l < columns; l += double_lanes) {
    const Doubles probe = load_doubles(r.size + l), d1 = load_doubles(r.rate + l);
    Doubles d2{};
    for (int64_t i = 0; i < job.dim; ++i) {
      const int64_t at = i * columns + l;
      const Doubles tolerance = fused(job.rtol, absolute(load_doubles(r.y + at)), Doubles{} + job.atol[i]);
      const Doubles ratio = (load_doubles(r.slope + at) - load_doubles(r.k + at)) / tolerance;
      d2 = fused(ratio, ratio, d2);
    }
    const Doubles curve = square_root(d2 * c.mean) / probe;
    // A probe that met NaN or infinity says nothing: the first step is the probe, and may be rejected.
    const Doubles most = curve > d1 ? curve : d1;
    const Longs flat = most <= 1e-15;
    const Doubles power = logarithm<ManyDoubles>(0.01 / larger_of(flat ? Doubles{} + 1.0 : most, Doubles{} + 1e-300));
    const Doubles chosen = exponential<ManyDoubles>(smaller_of(power * (1.0 / c.control.order), Doubles{} + 700.0));
    const Doubles short_step = larger_of(Doubles{} + 1e-6, 1e-3 * probe);
    Doubles h = smaller_of(100.0 * probe, flat ? short_step : chosen);
    h = most < endless ? h : probe;
    store_doubles(r.size + l, smaller_of(h, Doubles{} + longest));
  }
}

}  // namespace pushforward::PF_ISA
