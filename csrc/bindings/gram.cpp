#include "../cpu/gram.hpp"

#include <algorithm>
#include <vector>

#include "../cpu/parallel.hpp"
#include "module.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

// Below this many elements a thread, waking another one costs more than it saves.
constexpr int64_t least_elements = 8192;

// Tensors are contiguous [rows, row_size], checked in Python.
void gram(int dtype, int64_t rows, int64_t row_size, const py::list& tensors, py::handle products, py::handle sums) {
  GramJob job;
  job.dtype = Dtype(dtype);
  job.rows = rows;
  job.row_size = row_size;
  job.tensors = int(tensors.size());
  if (job.tensors > max_gram) throw py::value_error("too many tensors");
  for (int t = 0; t < job.tensors; ++t) job.tensor[t] = as_address(py::object(tensors[t]).ptr());
  job.products = reinterpret_cast<double*>(as_address(products.ptr()));
  job.sums = reinterpret_cast<double*>(as_address(sums.ptr()));
  if (row_size == 0) {
    std::fill_n(job.products, rows * job.tensors * job.tensors, 0.0);
    std::fill_n(job.sums, rows * job.tensors, 0.0);
  }
  const int64_t size = rows * row_size;
  if (size == 0) return;

  const auto kernel = gram_units_kernel();
  const int64_t blocks = job.short_rows() ? 1 : job.blocks();
  const int threads = size < 2 * least_elements ? 1 : int(std::min<int64_t>(torch_threads(), size / least_elements));
  std::vector<double> partial(blocks > 1 ? size_t(job.quantities() * rows * blocks) : 0);
  job.partial = partial.data();
  py::gil_scoped_release release;
  parallel_for(job.units(), threads, [&](int64_t first, int64_t last) { kernel(job, first, last); });
  if (blocks == 1) return;
  double* from = partial.data();
  auto finish = [&](int i, int j) {
    for (int64_t row = 0; row < rows; ++row, from += blocks) job.put(row, i, j, PF_ISA::sum_of_blocks(from, blocks));
  };
  for (int i = 0; i < job.tensors; ++i) {
    for (int j = i; j < job.tensors; ++j) finish(i, j);
  }
  for (int i = 0; i < job.tensors; ++i) finish(i, job.tensors);
}

}  // namespace

PF_BINDINGS(module) { module.def("gram", &gram); }

}  // namespace pushforward
