// Ensembles of small systems: trajectories that are integrated side by side, each with its own step size.
#pragma once

#include <cstdint>

#include "../core/config.hpp"
#include "../core/embedded_pair.hpp"
#include "isa.hpp"

namespace pushforward {

// What a right-hand side is: dy = f(t, y, params) for `lanes` trajectories at once, lanes last: t [lanes],
// y [dim][lanes], dy [dim][lanes]; params is [count][lanes], or [count] where all trajectories share them. lanes is a
// multiple of `lane_group`, so that a vectorised loop has no remainder, which might round differently.
using EnsembleFunction = void (*)(int64_t lanes, int64_t dim, const double* t, const double* y, const double* params,
                                  double* dy);
constexpr int64_t lane_group = 32;

enum class EnsembleField : int { function, van_der_pol, lorenz, linear, mixture };
// As in solvers/adaptive/solution.py.
enum class EnsembleStatus : int64_t { success = 0, step_too_small = 2, not_finite = 3, too_many_steps = 4 };

// Step sizes, as in solvers/adaptive/controller.py: after an accepted step of error norm r, where r1 and r2 are those
// of the accepted steps before, h' = h clip(safety r^-exponent[0] r1^-exponent[1] r2^-exponent[2], smallest, largest),
// and no growth right after a rejection; after that, h' = h clip(safety r^-1/order, smallest, safety), or half.
struct StepControl {
  double exponent[3];
  double order;
  double safety, smallest, largest;
  double headroom;  // log2(largest / safety)
};

struct EnsembleJob {
  EnsembleField field;
  EnsembleFunction function;
  EmbeddedPair pair;
  StepControl control;

  int64_t batch, dim, parameters;
  bool shared;           // parameters [parameters], not [batch, parameters]
  const double* y0;      // [batch, dim]
  const double* params;
  const double* times;   // [count], strictly monotone
  int64_t count;
  double rtol;
  const double* atol;    // [dim], positive normal numbers
  double first_step;     // 0: chosen for each trajectory
  double min_step;       // 0: 16 units in the last place of the time
  double max_step;
  int64_t max_steps;

  double* y;             // [count, batch, dim]; NaN at times that were not reached
  double *final, *reached;  // [batch, dim] and [batch], the last state of each trajectory and its time
  int64_t *status, *accepted, *rejected;  // [batch]

  int64_t width;   // trajectories side by side, a multiple of lane_group
  int64_t* queue;  // the first trajectory that nobody has taken; threads add to it atomically
};

// Rows of `width` numbers that a thread needs: of each lane 15 numbers, its state, stages and parameters; and of each
// trajectory that waits, its state, slope, parameters and step size.
PF_HD int64_t ensemble_rows(const EnsembleJob& job) {
  const int64_t own = job.shared ? 0 : job.parameters;
  return 15 + (job.pair.stages + 3) * job.dim + own + 2 * job.dim + own + 1;
}

// Integrate trajectories from the queue until it is empty. `scratch` has ensemble_rows(job) * width numbers, at a
// multiple of 64 bytes. What comes out for a trajectory does not depend on which others are integrated beside it.
PF_KERNEL(void, run_ensemble, const EnsembleJob& job, double* scratch)

}  // namespace pushforward
