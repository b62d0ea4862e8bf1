// Increments of Brownian paths, for Python: addresses of contiguous arrays, checked there.
#include "../cpu/brownian.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <tuple>

#include "../cpu/parallel.hpp"
#include "module.hpp"
#include "noise_key.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

void brownian(int dtype, uintptr_t increments, uintptr_t areas, int64_t rows, int64_t row_size, uintptr_t times,
              int64_t count, bool shared, double span, double shift, int levels, const KeyTuple& key) {
  BrownianJob job;
  job.dtype = Dtype(dtype);
  job.area = areas != 0;
  job.levels = levels;
  job.rows = rows;
  job.row_size = row_size;
  job.times = count;
  job.time = reinterpret_cast<const double*>(times);
  job.shared = shared;
  job.span = span;
  job.shift = shift;
  job.key = noise_key(key);
  job.increments = reinterpret_cast<char*>(increments);
  job.areas = reinterpret_cast<char*>(areas);
  const int64_t units = rows * job.chunks();
  if (units == 0) return;
  const auto kernel = brownian_chunks_kernel();
  const int available = torch_threads();
  py::gil_scoped_release release;
  WalkProgram program;
  if (shared) write_program(job, 0, program);
  // A node of an element takes some nanoseconds, and a second thread pays from some tens of microseconds on.
  constexpr int64_t least = 8192;
  const int64_t work = rows * row_size * std::max<int64_t>(levels, count);
  const int threads = work < 2 * least ? 1 : int(std::min<int64_t>({available, work / least, units}));
  parallel_for(units, threads, [&](int64_t first, int64_t last) { kernel(job, program, first, last); });
}

}  // namespace

PF_BINDINGS(module) { module.def("brownian", &brownian); }

}  // namespace pushforward
