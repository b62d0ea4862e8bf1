// pyramid_down and pyramid_up: rows of results shared out over threads.
#include "../cpu/parallel.hpp"
#include "module.hpp"
#include "planes.hpp"

namespace pushforward {
namespace {

using Kernel = void (*)(const PyramidJob&, int64_t, int64_t, char*);

PyramidJob pyramid_job(int dtype, uintptr_t in, uintptr_t out, int64_t planes, int64_t height, int64_t width,
                       bool smooth) {
  PyramidJob job{};
  job.dtype = Dtype(dtype);
  job.in = reinterpret_cast<const char*>(in);
  job.out = reinterpret_cast<char*>(out);
  job.planes = planes;
  job.height = height;
  job.width = width;
  job.low_height = (height + 1) / 2;
  job.low_width = (width + 1) / 2;
  job.smooth = smooth;
  return job;
}

void run(const PyramidJob& job, int64_t rows, Kernel kernel) {
  const int threads = plane_threads(job.planes * job.height * job.width);
  py::gil_scoped_release release;
  parallel_for(job.planes * rows, threads, [&](int64_t first, int64_t last) {
    const Scratch scratch(pyramid_scratch(job));
    kernel(job, first, last, scratch.address);
  });
}

void pyramid_down(int dtype, uintptr_t in, uintptr_t out, int64_t planes, int64_t height, int64_t width, bool smooth,
                  double gain) {
  PyramidJob job = pyramid_job(dtype, in, out, planes, height, width, smooth);
  job.scale = gain / (smooth ? 64 : 4);
  run(job, job.low_height, pyramid_down_rows_kernel());
}

void pyramid_up(int dtype, uintptr_t in, uintptr_t base, uintptr_t out, int64_t planes, int64_t height, int64_t width,
                bool smooth, double gain) {
  PyramidJob job = pyramid_job(dtype, in, out, planes, height, width, smooth);
  job.base = reinterpret_cast<const char*>(base);
  job.scale = gain / (smooth ? 16 : 1);
  const int64_t size = element_size(job.dtype), written = planes * height * width * size;
  job.past_cache = plane_streams(base ? 9 * written / 4 : 5 * written / 4, width * size, {job.out});
  run(job, job.height, pyramid_up_rows_kernel());
}

}  // namespace

PF_BINDINGS(module) {
  module.def("pyramid_down", &pyramid_down);
  module.def("pyramid_up", &pyramid_up);
}

}  // namespace pushforward
