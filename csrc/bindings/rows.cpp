// Moving rows, for Python: addresses of contiguous arrays.
#include "../cpu/rows.hpp"

#include "module.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

void move(uintptr_t out, uintptr_t source, uintptr_t base, uintptr_t index, int64_t batch, int64_t out_rows,
          int64_t source_rows, size_t row_bytes) {
  const RowsJob job{reinterpret_cast<char*>(out),
                    reinterpret_cast<const char*>(source),
                    reinterpret_cast<const char*>(base),
                    reinterpret_cast<const int64_t*>(index),
                    batch,
                    out_rows,
                    source_rows,
                    row_bytes};
  const int threads = torch_threads();
  py::gil_scoped_release release;
  move_rows(job, threads);
}

void permute(uintptr_t rows, uintptr_t index, int64_t batch, int64_t count, size_t row_bytes) {
  const int threads = torch_threads();
  py::gil_scoped_release release;
  permute_rows(reinterpret_cast<char*>(rows), reinterpret_cast<const int64_t*>(index), batch, count, row_bytes,
               threads);
}

int64_t keep(uintptr_t ancestors, uintptr_t out, int64_t batch, int64_t count) {
  const int threads = torch_threads();
  py::gil_scoped_release release;
  return keep_in_place(reinterpret_cast<const int64_t*>(ancestors), reinterpret_cast<int64_t*>(out), batch, count, threads);
}

bool outside(uintptr_t index, int64_t count, int64_t rows) {
  const int threads = torch_threads();
  py::gil_scoped_release release;
  return any_outside(reinterpret_cast<const int64_t*>(index), count, rows, threads);
}

PF_BINDINGS(module) {
  module.def("any_outside", &outside, py::arg("index"), py::arg("count"), py::arg("rows"));
  module.def("keep_in_place", &keep, py::arg("ancestors"), py::arg("out"), py::arg("batch"), py::arg("count"));
  module.def("move_rows", &move, py::arg("out"), py::arg("source"), py::arg("base"), py::arg("index"),
             py::arg("batch"), py::arg("out_rows"), py::arg("source_rows"), py::arg("row_bytes"));
  module.def("permute_rows", &permute, py::arg("rows"), py::arg("index"), py::arg("batch"), py::arg("count"),
             py::arg("row_bytes"));
}

}  // namespace
}  // namespace pushforward
