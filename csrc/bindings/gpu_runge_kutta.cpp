// `rk_step` on the current device and a given stream, or emulated on the host.
#include <pybind11/stl.h>

#include <vector>

#include "../cuda/runge_kutta.hpp"
#include "module.hpp"
#include "runge_kutta.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

// Tensors are addresses, and contiguous [rows, row_size], checked in Python. `tableau`: see step_rows. `scratch`:
// gpu_rk_step_scratch() numbers of float64.
void gpu_rk_step(bool emulated, int dtype, int64_t rows, int64_t row_size, uintptr_t x,
                 const std::vector<uintptr_t>& stages, uintptr_t h, int64_t h_step, const py::tuple& tableau,
                 int estimates, double rtol, double atol, uintptr_t out, const std::vector<uintptr_t>& dense,
                 uintptr_t error, uintptr_t scratch, uintptr_t stream) {
  GpuStep job{};
  job.dtype = Dtype(dtype);
  job.rows = rows;
  job.row_size = row_size;
  job.tableau = step_rows(tableau, stages.size(), estimates, dense.size(), rtol, atol);
  job.x = reinterpret_cast<const void*>(x);
  for (size_t s = 0; s < stages.size(); ++s) job.stage[s] = reinterpret_cast<const void*>(stages[s]);
  job.out = reinterpret_cast<void*>(out);
  for (size_t j = 0; j < dense.size(); ++j) job.dense[j] = reinterpret_cast<void*>(dense[j]);
  job.h = reinterpret_cast<const double*>(h);
  job.h_step = h_step;
  job.error = reinterpret_cast<double*>(error);
  job.scratch = reinterpret_cast<double*>(scratch);
  job.stream = reinterpret_cast<void*>(stream);
  if (rows * row_size == 0) throw py::value_error("no elements");
  run_step(emulated, job);
}

}  // namespace

PF_BINDINGS(module) {
  module.def("gpu_rk_step_scratch", &step_scratch, py::arg("rows"), py::arg("row_size"), py::arg("estimates"));
  module.def("gpu_rk_step", &gpu_rk_step, py::arg("emulated"), py::arg("dtype"), py::arg("rows"), py::arg("row_size"),
             py::arg("x"), py::arg("stages"), py::arg("h"), py::arg("h_step"), py::arg("tableau"),
             py::arg("estimates"), py::arg("rtol"), py::arg("atol"), py::arg("out"), py::arg("dense"),
             py::arg("error"), py::arg("scratch"), py::arg("stream"));
}

}  // namespace pushforward
