// Resampling on GPUs for Python: addresses of contiguous arrays on the device.
#include "../cuda/resample.hpp"

#include "module.hpp"
#include "noise_key.hpp"

namespace pushforward {
namespace {

namespace py = pybind11;

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

int64_t gpu_resample_scratch(int scheme, int64_t rows, int64_t particles, int64_t count) {
  GpuResample job{};
  job.scheme = Scheme(scheme);
  job.rows = rows;
  job.particles = particles;
  job.count = count;
  return GpuResampleScratch(job).size;
}

void gpu_resample(bool emulated, uintptr_t log_weights, uintptr_t weights, bool wide, int scheme, int64_t rows,
                  int64_t particles, int64_t count, const KeyTuple& key, uintptr_t ancestors, uintptr_t maximum,
                  uintptr_t total, uintptr_t squares, uintptr_t scratch, uintptr_t stream) {
  GpuResample job{};
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
  job.scratch = at<int64_t>(scratch);
  job.stream = at<void>(stream);
  run_resampling(emulated, job);
}

}  // namespace

PF_BINDINGS(module) {
  module.def("gpu_resample_scratch", &gpu_resample_scratch, py::arg("scheme"), py::arg("rows"), py::arg("particles"),
             py::arg("count"));
  module.def("gpu_resample", &gpu_resample, py::arg("emulated"), py::arg("log_weights"), py::arg("weights"),
             py::arg("wide"), py::arg("scheme"), py::arg("rows"), py::arg("particles"), py::arg("count"),
             py::arg("noise"), py::arg("ancestors"), py::arg("maximum"), py::arg("total"), py::arg("squares"),
             py::arg("scratch"), py::arg("stream"));
}

}  // namespace pushforward
