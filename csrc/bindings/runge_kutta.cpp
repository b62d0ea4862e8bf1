#include "runge_kutta.hpp"

#include <algorithm>
#include <vector>

#include "../cpu/parallel.hpp"
#include "../cpu/runge_kutta.hpp"
#include "module.hpp"
#include "tensors.hpp"

namespace pushforward {

// Below this many elements a thread, waking another one costs more than it saves.
constexpr int64_t least_elements = 4096;

StepRows step_rows(const py::tuple& rows, size_t stages, int estimates, size_t dense, double rtol, double atol) {
  if (stages > max_stages || estimates < 0 || estimates > max_estimates || dense > max_dense ||
      rows.size() != 1 + size_t(estimates) + dense) {
    throw py::value_error("too many stages or rows");
  }
  StepRows tableau{};
  tableau.stages = int(stages);
  tableau.estimates = estimates;
  tableau.rows = int(rows.size());
  tableau.rtol = rtol;
  tableau.atol = atol;
  for (int r = 0; r < tableau.rows; ++r) {
    const py::tuple row = rows[r];
    if (row.size() != stages) throw py::value_error("a weight for each stage");
    for (int s = 0; s < tableau.stages; ++s) {
      const double weight = as_double(py::object(row[s]).ptr());
      tableau.weight[r][s] = weight;
      tableau.used[s] |= uint32_t(weight != 0) << r;
    }
  }
  return tableau;
}

void run_steps(StepJob& job) {
  const int estimates = job.tableau.estimates;
  const int64_t rows = job.rows, row_size = job.row_size, size = rows * row_size;
  if (row_size == 0) std::fill_n(job.error, rows * estimates, 0.0);
  if (size == 0) return;
  const auto kernel = step_units_kernel();
  const int64_t blocks = job.short_rows() ? 1 : job.blocks();
  std::vector<double> sums(blocks > 1 ? size_t(estimates * rows * blocks) : 0);
  job.sums = sums.data();
  if (size < 2 * least_elements) {
    kernel(job, 0, job.units());
  } else {
    const int threads = int(std::min<int64_t>(torch_threads(), size / least_elements));
    py::gil_scoped_release release;
    parallel_for(job.units(), threads, [&](int64_t first, int64_t last) { kernel(job, first, last); });
  }
  if (blocks == 1) return;
  for (int64_t row = 0; row < rows; ++row) {
    for (int e = 0; e < estimates; ++e) {
      const double sum = PF_ISA::sum_of_blocks(job.sums + (e * rows + row) * blocks, blocks);
      job.error[row * estimates + e] = PF_ISA::error_norm(sum, row_size);
    }
  }
}

namespace {

// Tensors are contiguous [rows, row_size], checked in Python. `tableau`: see step_rows.
void rk_step(int dtype, int64_t rows, int64_t row_size, py::handle x, const py::list& stages, py::handle h,
             int64_t h_step, const py::tuple& tableau, int estimates, double rtol, double atol, py::handle out,
             const py::list& dense, py::handle error) {
  StepJob job;
  job.dtype = Dtype(dtype);
  job.rows = rows;
  job.row_size = row_size;
  job.tableau = step_rows(tableau, stages.size(), estimates, dense.size(), rtol, atol);
  for (int s = 0; s < job.tableau.stages; ++s) job.stage[s] = as_address(py::object(stages[s]).ptr());
  job.x = as_address(x.ptr());
  job.out = as_address(out.ptr());
  for (int j = 0; j < int(dense.size()); ++j) job.dense[j] = as_address(py::object(dense[j]).ptr());
  job.h = reinterpret_cast<const double*>(as_address(h.ptr()));
  job.h_step = h_step;
  job.error = reinterpret_cast<double*>(as_address(error.ptr()));
  run_steps(job);
}

// A stage of an attempt: the state x + h sum_i w_i k_i, and for each row its time t + c h. `t` and `h` are doubles.
void rk_stage(int dtype, int64_t rows, int64_t row_size, py::handle x, const py::list& stages, py::handle h,
              const py::tuple& weights, double c, py::handle t, py::handle out, py::handle times) {
  StepJob job;
  job.dtype = Dtype(dtype);
  job.rows = rows;
  job.row_size = row_size;
  job.tableau = step_rows(py::make_tuple(weights), stages.size(), 0, 0, 0.0, 1.0);
  for (int s = 0; s < job.tableau.stages; ++s) job.stage[s] = as_address(py::object(stages[s]).ptr());
  job.x = as_address(x.ptr());
  job.out = as_address(out.ptr());
  job.h = reinterpret_cast<const double*>(as_address(h.ptr()));
  job.h_step = 1;
  job.error = nullptr;
  job.sums = nullptr;
  const auto* start = reinterpret_cast<const double*>(as_address(t.ptr()));
  auto* time = reinterpret_cast<double*>(as_address(times.ptr()));
  for (int64_t row = 0; row < rows; ++row) time[row] = start[row] + c * job.h[row];
  run_steps(job);
}

}  // namespace

PF_BINDINGS(module) {
  module.def("rk_step", &rk_step);
  module.def("rk_stage", &rk_stage);
}

}  // namespace pushforward
