// haar2d, dwt2d and their inverses: rows of results shared out over threads.
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <vector>

#include "../cpu/parallel.hpp"
#include "module.hpp"
#include "planes.hpp"

namespace pushforward {
namespace {

bool streams(const WaveletJob& job, int64_t row_elements, std::initializer_list<const char*> outs) {
  const int64_t size = element_size(job.dtype);
  return plane_streams(2 * job.planes * job.height * job.width * size, row_elements * size, outs);
}

WaveletJob haar_job(int dtype, int64_t planes, int64_t height, int64_t width) {
  WaveletJob job{};
  job.dtype = Dtype(dtype);
  job.planes = planes;
  job.height = height;
  job.width = width;
  job.band_height = height / 2;
  job.band_width = width / 2;
  return job;
}

void run_haar(WaveletJob& job, void (*kernel)(const WaveletJob&, int64_t, int64_t)) {
  const int threads = plane_threads(job.planes * job.height * job.width);
  py::gil_scoped_release release;
  parallel_for(job.planes * job.band_height, threads, [&](int64_t first, int64_t last) { kernel(job, first, last); });
}

void haar2d(int dtype, uintptr_t in, const std::array<uintptr_t, 4>& out, int64_t planes, int64_t height,
            int64_t width) {
  WaveletJob job = haar_job(dtype, planes, height, width);
  job.in[0] = reinterpret_cast<const char*>(in);
  for (int b = 0; b < 4; ++b) job.out[b] = reinterpret_cast<char*>(out[b]);
  job.past_cache = streams(job, job.band_width, {job.out[0], job.out[1], job.out[2], job.out[3]});
  run_haar(job, haar2d_rows_kernel());
}

void ihaar2d(int dtype, const std::array<uintptr_t, 4>& in, uintptr_t out, int64_t planes, int64_t height,
             int64_t width) {
  WaveletJob job = haar_job(dtype, planes, height, width);
  for (int b = 0; b < 4; ++b) job.in[b] = reinterpret_cast<const char*>(in[b]);
  job.out[0] = reinterpret_cast<char*>(out);
  job.past_cache = streams(job, job.width, {job.out[0]});
  run_haar(job, ihaar2d_rows_kernel());
}

// sizes: planes, height, width, and the height and width of the bands.
WaveletJob filter_job(int dtype, const std::array<int64_t, 5>& sizes, const std::vector<double>& taps, int border,
                      int64_t offset) {
  if (taps.size() > max_taps || taps.size() % 2 || offset > 0) throw std::invalid_argument("taps or offset");
  WaveletJob job{};
  job.dtype = Dtype(dtype);
  job.planes = sizes[0];
  job.height = sizes[1];
  job.width = sizes[2];
  job.band_height = sizes[3];
  job.band_width = sizes[4];
  job.taps = int(taps.size());
  for (int k = 0; k < job.taps; ++k) {
    job.low[k] = taps[size_t(k)];
    job.high[k] = (k % 2 ? -1 : 1) * taps[size_t(job.taps - 1 - k)];
  }
  job.border = Border(border);
  job.offset = offset;
  return job;
}

void run_filter(const WaveletJob& job, int64_t rows, void (*kernel)(const WaveletJob&, int64_t, int64_t, char*)) {
  const int threads = plane_threads(job.planes * job.height * job.width);
  py::gil_scoped_release release;
  parallel_for(job.planes * rows, threads, [&](int64_t first, int64_t last) {
    const Scratch scratch(wavelet_scratch(job));
    kernel(job, first, last, scratch.address);
  });
}

void dwt2d(int dtype, uintptr_t in, const std::array<uintptr_t, 4>& out, const std::array<int64_t, 5>& sizes,
           const std::vector<double>& taps, int border, int64_t offset) {
  WaveletJob job = filter_job(dtype, sizes, taps, border, offset);
  job.in[0] = reinterpret_cast<const char*>(in);
  for (int b = 0; b < 4; ++b) job.out[b] = reinterpret_cast<char*>(out[b]);
  job.past_cache = streams(job, job.band_width, {job.out[0], job.out[1], job.out[2], job.out[3]});
  run_filter(job, job.band_height, dwt2d_rows_kernel());
}

void idwt2d(int dtype, const std::array<uintptr_t, 4>& in, uintptr_t out, const std::array<int64_t, 5>& sizes,
            const std::vector<double>& taps, int border, int64_t offset) {
  WaveletJob job = filter_job(dtype, sizes, taps, border, offset);
  for (int b = 0; b < 4; ++b) job.in[b] = reinterpret_cast<const char*>(in[b]);
  job.out[0] = reinterpret_cast<char*>(out);
  job.past_cache = streams(job, job.width, {job.out[0]});
  run_filter(job, job.height, idwt2d_rows_kernel());
}

}  // namespace

PF_BINDINGS(module) {
  module.def("haar2d", &haar2d);
  module.def("ihaar2d", &ihaar2d);
  module.def("dwt2d", &dwt2d);
  module.def("idwt2d", &idwt2d);
}

}  // namespace pushforward
