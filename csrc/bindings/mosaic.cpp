// grid_sample3d_sum: an index of the cubes, then points shared out over threads.
#include "../cpu/mosaic.hpp"

#include <algorithm>

#include "../cpu/parallel.hpp"
#include "module.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

void grid_sample3d_sum(int dtype, uintptr_t points, uintptr_t centers, uintptr_t scales, uintptr_t values, uintptr_t out,
                       uintptr_t inside, int64_t queries, int64_t cubes, int nodes, double outside, int most_cells) {
  MosaicJob job{};
  job.dtype = Dtype(dtype);
  job.points = reinterpret_cast<const char*>(points);
  job.centers = reinterpret_cast<const char*>(centers);
  job.scales = reinterpret_cast<const char*>(scales);
  job.values = reinterpret_cast<const char*>(values);
  job.out = reinterpret_cast<char*>(out);
  job.inside = reinterpret_cast<bool*>(inside);
  job.queries = queries;
  job.cubes = cubes;
  job.nodes = nodes;
  job.outside = outside;
  constexpr int64_t block = 64, least = 1024;  // points of a unit of work, and worth a thread
  const int threads = int(std::clamp<int64_t>(queries / least, 1, torch_threads()));
  py::gil_scoped_release release;
  MosaicIndex index;
  build_mosaic_index(job, most_cells, index);
  const auto kernel = mosaic_queries_kernel();
  parallel_for((queries + block - 1) / block, threads, [&](int64_t first, int64_t last) {
    kernel(job, first * block, std::min(last * block, queries));
  });
}

}  // namespace

PF_BINDINGS(module) { module.def("grid_sample3d_sum", &grid_sample3d_sum); }

}  // namespace pushforward
