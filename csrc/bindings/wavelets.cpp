// haar2d, dwt2d and their inverses: rows of results shared out over threads.
#include <pybind11/stl.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <vector>

#include "../cpu/parallel.hpp"
#include "../cpu/planes.hpp"
#include "module.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

// As in combine: about where the operands of a pass outgrow the caches.
constexpr int64_t past_cache_bytes = int64_t(32) << 20;
constexpr int64_t least_elements = 32768;  // for each thread

int threads_for(int64_t elements) {
  return elements < 2 * least_elements ? 1 : int(std::min<int64_t>(torch_threads(), elements / least_elements));
}

bool streams(const WaveletJob& job, const std::vector<char*>& outs, int64_t row_elements) {
  const int64_t size = element_size(job.dtype), bytes = 2 * job.planes * job.height * job.width * size;
  constexpr int64_t alignment = 64;
  bool aligned = row_elements * size % alignment == 0;
  for (const char* out : outs) aligned = aligned && reinterpret_cast<uintptr_t>(out) % alignment == 0;
  return aligned && bytes > past_cache_bytes;
}

struct Scratch {
  explicit Scratch(int64_t bytes) : address(static_cast<char*>(::operator new(size_t(bytes), std::align_val_t(64)))) {}
  ~Scratch() { ::operator delete(address, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* address;
};

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
  const int threads = threads_for(job.planes * job.height * job.width);
  py::gil_scoped_release release;
  parallel_for(job.planes * job.band_height, threads, [&](int64_t first, int64_t last) { kernel(job, first, last); });
}

void haar2d(int dtype, uintptr_t in, const std::array<uintptr_t, 4>& out, int64_t planes, int64_t height,
            int64_t width) {
  WaveletJob job = haar_job(dtype, planes, height, width);
  job.in[0] = reinterpret_cast<const char*>(in);
  for (int b = 0; b < 4; ++b) job.out[b] = reinterpret_cast<char*>(out[b]);
  job.past_cache = streams(job, {job.out, job.out + 4}, job.band_width);
  run_haar(job, haar2d_rows_kernel());
}

void ihaar2d(int dtype, const std::array<uintptr_t, 4>& in, uintptr_t out, int64_t planes, int64_t height,
             int64_t width) {
  WaveletJob job = haar_job(dtype, planes, height, width);
  for (int b = 0; b < 4; ++b) job.in[b] = reinterpret_cast<const char*>(in[b]);
  job.out[0] = reinterpret_cast<char*>(out);
  job.past_cache = streams(job, {job.out[0]}, job.width);
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
  const int threads = threads_for(job.planes * job.height * job.width);
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
  job.past_cache = streams(job, {job.out, job.out + 4}, job.band_width);
  run_filter(job, job.band_height, dwt2d_rows_kernel());
}

void idwt2d(int dtype, const std::array<uintptr_t, 4>& in, uintptr_t out, const std::array<int64_t, 5>& sizes,
            const std::vector<double>& taps, int border, int64_t offset) {
  WaveletJob job = filter_job(dtype, sizes, taps, border, offset);
  for (int b = 0; b < 4; ++b) job.in[b] = reinterpret_cast<const char*>(in[b]);
  job.out[0] = reinterpret_cast<char*>(out);
  job.past_cache = streams(job, {job.out[0]}, job.width);
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
