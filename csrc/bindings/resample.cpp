// Resampling for Python: addresses of contiguous arrays.
#include "../cpu/resample.hpp"

#include "module.hpp"
#include "noise_key.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void resample(uintptr_t log_weights, uintptr_t weights, bool wide, int scheme, int64_t rows, int64_t particles,
              int64_t count, const KeyTuple& key, uintptr_t ancestors, uintptr_t maximum, uintptr_t total,
              uintptr_t squares) {
  ResampleJob job{};
  job.log_weights = at<const void>(log_weights);
  job.weights = at<void>(weights);
  job.wide = wide;
  job.scheme = Scheme(scheme);
  job.rows = rows;
  job.particles = particles;
  job.count = count;
  job.noise = noise_key(key);
  job.ancestors = at<int64_t>(ancestors);
  job.maximum = at<double>(maximum);
  job.total = at<int64_t>(total);
  job.squares = at<int64_t>(squares);
  const int threads = torch_threads();
  py::gil_scoped_release release;
  run_resample(job, threads);
}

PF_BINDINGS(module) {
  module.def("resample", &resample, py::arg("log_weights"), py::arg("weights"), py::arg("wide"), py::arg("scheme"),
             py::arg("rows"), py::arg("particles"), py::arg("count"), py::arg("noise"), py::arg("ancestors"),
             py::arg("maximum"), py::arg("total"), py::arg("squares"));
}

}  // namespace
}  // namespace pushforward
