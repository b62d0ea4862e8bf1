// Ensembles for Python: addresses of contiguous arrays, a table of numbers for the pair, and who integrates what.
#include "../cpu/ensemble.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#include "../cpu/parallel.hpp"
#include "module.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

using Row = std::vector<double>;
constexpr int64_t most_lanes = 128;
constexpr int64_t worth_a_thread = 512;  // components: 0.2 ms of Van der Pol's oscillator
constexpr int64_t cached = 40 * 1024;  // bytes of a block that should stay in the first cache

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

EmbeddedPair pair_of(const std::vector<Row>& a, const Row& c, const Row& e, const std::vector<Row>& dense) {
  EmbeddedPair pair{};
  const size_t stages = c.size();
  if ((stages != 4 && stages != 7) || a.size() != stages || e.size() != stages || dense.size() != stages) {
    throw std::invalid_argument("a pair of 4 or 7 stages was expected");
  }
  pair.stages = int(stages);
  for (size_t i = 0; i < stages; ++i) {
    if (a[i].size() > i || dense[i].size() > max_dense_degree) throw std::invalid_argument("a row is too long");
    std::copy(a[i].begin(), a[i].end(), pair.a[i]);
    std::copy(dense[i].begin(), dense[i].end(), pair.dense[i]);
    pair.c[i] = c[i];
    pair.e[i] = e[i];
  }
  return pair;
}

// As many trajectories side by side as the first cache holds, and as few as give every thread some.
int64_t width_of(const EnsembleJob& job, int threads) {
  const int64_t share = (job.batch + threads - 1) / threads;
  const int64_t fitting = cached / (int64_t(sizeof(double)) * ensemble_rows(job));
  const int64_t lanes = std::min({most_lanes, std::max(fitting, lane_group), share + lane_group - 1});
  return std::max(lanes / lane_group, int64_t(1)) * lane_group;
}

void solve_ensemble(int field, uintptr_t function, const std::vector<Row>& a, const Row& c, const Row& e,
                    const std::vector<Row>& dense, const Row& control, int64_t batch, int64_t dim, uintptr_t y0,
                    uintptr_t params, int64_t parameters, bool shared, const Row& times, double rtol, Row atol,
                    double first_step, double min_step, double max_step, int64_t max_steps, uintptr_t y,
                    uintptr_t final, uintptr_t reached, uintptr_t status, uintptr_t accepted, uintptr_t rejected) {
  EnsembleJob job{};
  job.field = EnsembleField(field);
  job.function = at<void(int64_t, int64_t, const double*, const double*, const double*, double*)>(function);
  job.pair = pair_of(a, c, e, dense);
  if (control.size() != 7 || times.size() < 2 || int64_t(atol.size()) != dim) {
    throw std::invalid_argument("7 numbers of control, 2 times and a tolerance for each component were expected");
  }
  std::copy(control.begin(), control.begin() + 3, job.control.exponent);
  job.control.order = control[3];
  job.control.safety = control[4];
  job.control.smallest = control[5];
  job.control.largest = control[6];
  job.control.headroom = std::log2(control[6] / control[4]);
  job.batch = batch;
  job.dim = dim;
  job.parameters = parameters;
  job.shared = shared;
  job.y0 = at<const double>(y0);
  job.params = at<const double>(params);
  job.times = times.data();
  job.count = int64_t(times.size());
  job.rtol = rtol;
  // No error counts zero even where the tolerance is zero.
  for (double& tolerance : atol) tolerance = std::max(tolerance, std::numeric_limits<double>::min());
  job.atol = atol.data();
  job.first_step = first_step;
  job.min_step = min_step;
  job.max_step = max_step;
  job.max_steps = max_steps;
  job.y = at<double>(y);
  job.final = at<double>(final);
  job.reached = at<double>(reached);
  job.status = at<int64_t>(status);
  job.accepted = at<int64_t>(accepted);
  job.rejected = at<int64_t>(rejected);

  const int64_t shares = std::min((batch + lane_group - 1) / lane_group, batch * dim / worth_a_thread);
  const int threads = int(std::max<int64_t>(1, std::min<int64_t>(torch_threads(), shares)));
  job.width = width_of(job, threads);
  int64_t queue = 0;
  job.queue = &queue;
  const int64_t numbers = ensemble_rows(job) * job.width, padding = 64 / sizeof(double);
  std::unique_ptr<double[]> memory(new double[numbers * threads + padding]);
  double* scratch = memory.get();
  while (reinterpret_cast<uintptr_t>(scratch) % 64) ++scratch;

  py::gil_scoped_release release;
  // A thread is a unit, and takes trajectories from the queue until there are none.
  parallel_for(threads, threads, [&](int64_t first, int64_t last) {
    for (int64_t thread = first; thread < last; ++thread) run_ensemble_kernel()(job, scratch + thread * numbers);
  });
}

PF_BINDINGS(module) {
  module.def("solve_ensemble", &solve_ensemble, py::arg("field"), py::arg("function"), py::arg("a"), py::arg("c"),
             py::arg("e"), py::arg("dense"), py::arg("control"), py::arg("batch"), py::arg("dim"), py::arg("y0"),
             py::arg("params"), py::arg("parameters"), py::arg("shared"), py::arg("times"), py::arg("rtol"),
             py::arg("atol"), py::arg("first_step"), py::arg("min_step"), py::arg("max_step"), py::arg("max_steps"),
             py::arg("y"), py::arg("final"), py::arg("reached"), py::arg("status"), py::arg("accepted"),
             py::arg("rejected"));
}

}  // namespace
}  // namespace pushforward
