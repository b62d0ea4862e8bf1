// Log-weights, for Python: addresses of contiguous arrays of doubles.
#include "../cpu/weights.hpp"

#include "module.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

void update(uintptr_t log_weights, bool same, uintptr_t before, uintptr_t level, uintptr_t correction, uintptr_t out,
            uintptr_t sums, int64_t rows, int64_t particles) {
  const auto read = [](uintptr_t address) { return reinterpret_cast<const double*>(address); };
  auto* numbers = reinterpret_cast<double*>(sums);
  const WeightsJob job{read(log_weights),
                       same,
                       read(before),
                       read(level),
                       read(correction),
                       reinterpret_cast<double*>(out),
                       numbers,
                       numbers + rows,
                       numbers + 2 * rows,
                       rows,
                       particles};
  const int threads = torch_threads();
  py::gil_scoped_release release;
  reweigh(job, threads);
}

PF_BINDINGS(module) {
  module.def("reweigh", &update, py::arg("log_weights"), py::arg("same"), py::arg("before"), py::arg("level"), py::arg("correction"),
             py::arg("out"), py::arg("sums"), py::arg("rows"), py::arg("particles"));
}

}  // namespace
}  // namespace pushforward
