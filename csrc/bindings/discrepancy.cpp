// Sums of a kernel over all pairs of two samples, and their gradient: tiles over threads, partial sums by number.
#include "../cpu/discrepancy.hpp"

#include <pybind11/stl.h>

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "../cpu/parallel.hpp"
#include "module.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

constexpr int64_t tiles_of_unit = 16;
constexpr int64_t whole_rows = 64;               // bytes; rows are padded to a multiple
constexpr int64_t worth_a_thread = int64_t(1) << 19;  // pairs times features

int64_t blocks_of(int64_t count) { return (count + tile_columns - 1) / tile_columns; }

// The copies that the kernels read: memory in proportion to the points.
class Copies {
 public:
  Copies(const PairJob& job, const void* data, int64_t count, bool padded_rows, int threads) {
    points = {count, job.features, data, nullptr};
    job.is_double ? fill<double>(job.features, padded_rows, threads) : fill<float>(job.features, padded_rows, threads);
  }
  Points points;

 private:
  template <class Real>
  void fill(int64_t features, bool padded_rows, int threads) {
    const auto* rows = static_cast<const Real*>(points.rows);
    const int64_t count = points.count, blocks = blocks_of(count), block_size = features * tile_columns;
    columns_.reset(new char[blocks * block_size * sizeof(Real)]);
    Real* columns = reinterpret_cast<Real*>(columns_.get());
    parallel_for(blocks, threads, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        for (int64_t k = 0; k < features; ++k) {
          for (int64_t c = 0; c < tile_columns; ++c) {
            const int64_t i = block * tile_columns + c;
            columns[block * block_size + k * tile_columns + c] = i < count ? rows[i * features + k] : Real(0);
          }
        }
      }
    });
    points.columns = columns;
    const int64_t multiple = whole_rows / int64_t(sizeof(Real));
    if (!padded_rows || features % multiple == 0) return;
    points.stride = (features + multiple - 1) / multiple * multiple;
    rows_.reset(new char[count * points.stride * sizeof(Real)]());
    Real* padded = reinterpret_cast<Real*>(rows_.get());
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t k = 0; k < features; ++k) padded[i * points.stride + k] = rows[i * features + k];
    }
    points.rows = padded;
  }
  std::unique_ptr<char[]> columns_, rows_;
};

PairJob job_of(bool is_double, int kernel, const std::vector<double>& rates, int64_t features) {
  PairJob job{is_double, PairKernel(kernel), int(rates.size()), {}, features};
  if (job.bandwidths < 1 || job.bandwidths > max_bandwidths) throw py::value_error("bandwidths: one to sixteen");
  for (int h = 0; h < job.bandwidths; ++h) job.rates[h] = rates[h];
  return job;
}

// Threads take the next unit when they have done one; the units of a triangle are not all alike.
template <class Body>
void share(int64_t units, int threads, Body&& body) {
  std::atomic<int64_t> next{0};
  parallel_for(threads, threads, [&](int64_t first, int64_t last) {
    for (; first < last; ++first) {
      for (int64_t unit = next++; unit < units; unit = next++) body(unit);
    }
  });
}

// One row of tiles, or a piece of it.
struct Unit {
  int part;  // 0: x with x, 1: y with y, 2: x with y
  int64_t row_block, first_block, last_block;
};

// Sums over i != j of k(x_i, x_j), the same for y, and over all pairs of k(x_i, y_j).
std::array<double, 3> pair_sums(bool is_double, int kernel, const std::vector<double>& rates, uintptr_t x, int64_t n,
                                uintptr_t y, int64_t m, int64_t features) {
  const PairJob job = job_of(is_double, kernel, rates, features);
  int threads = torch_threads();
  py::gil_scoped_release release;
  if ((n + m) * (n + m) / 2 * (features + 32) < threads * worth_a_thread) threads = 1;
  const Copies of_x(job, reinterpret_cast<const void*>(x), n, false, threads);
  const Copies of_y(job, reinterpret_cast<const void*>(y), m, false, threads);
  const Points* sides[3][2] = {
      {&of_x.points, &of_x.points}, {&of_y.points, &of_y.points}, {&of_x.points, &of_y.points}};
  std::vector<Unit> units;
  for (int part = 0; part < 3; ++part) {
    const int64_t blocks = blocks_of(sides[part][1]->count);
    for (int64_t row = 0; row < blocks_of(sides[part][0]->count); ++row) {
      for (int64_t first = part == 2 ? 0 : row; first < blocks; first += tiles_of_unit) {
        units.push_back({part, row, first, first + tiles_of_unit < blocks ? first + tiles_of_unit : blocks});
      }
    }
  }
  std::vector<double> partial(units.size());
  share(int64_t(units.size()), threads, [&](int64_t number) {
    const Unit& unit = units[number];
    const Points &left = *sides[unit.part][0], &right = *sides[unit.part][1];
    const int64_t first = unit.row_block * tile_columns, end = first + tile_columns;
    partial[number] = pair_sum_kernel()(job, left, right, first, end < left.count ? end : left.count,
                                        unit.first_block, unit.last_block, unit.part != 2);
  });
  std::array<double, 3> sums{};
  for (size_t number = 0; number < units.size(); ++number) sums[units[number].part] += partial[number];
  return sums;
}

// out_i = within sum_{j != i} slope(x_i, x_j) (x_i - x_j) + across sum_j slope(x_i, y_j) (x_i - y_j)
void pair_gradients(bool is_double, int kernel, const std::vector<double>& rates, uintptr_t x, int64_t n, uintptr_t y,
                    int64_t m, int64_t features, double within, double across, uintptr_t out) {
  const PairJob job = job_of(is_double, kernel, rates, features);
  int threads = torch_threads();
  py::gil_scoped_release release;
  if (n * (n + m) * (2 * features + 32) < threads * worth_a_thread) threads = 1;
  const Copies of_x(job, reinterpret_cast<const void*>(x), n, true, threads);
  const Copies of_y(job, reinterpret_cast<const void*>(y), m, true, threads);
  share((n + gradient_rows - 1) / gradient_rows, threads, [&](int64_t unit) {
    const int64_t first = unit * gradient_rows, last = first + gradient_rows < n ? first + gradient_rows : n;
    std::vector<double> total((last - first) * features);
    pair_gradient_kernel()(job, of_x.points, of_x.points, first, last, true, within, total.data());
    pair_gradient_kernel()(job, of_x.points, of_y.points, first, last, false, across, total.data());
    for (size_t e = 0; e < total.size(); ++e) {
      is_double ? void(reinterpret_cast<double*>(out)[first * features + e] = total[e])
                : void(reinterpret_cast<float*>(out)[first * features + e] = float(total[e]));
    }
  });
}

void exponentials_of(uintptr_t x, uintptr_t out, int64_t count) {
  exponentials_kernel()(reinterpret_cast<const float*>(x), reinterpret_cast<float*>(out), count);
}

}  // namespace

PF_BINDINGS(module) {
  module.def("pair_sums", &pair_sums);
  module.def("pair_gradients", &pair_gradients);
  module.def("exponentials", &exponentials_of);
}

}  // namespace pushforward
