#include "mosaic.hpp"

#include <algorithm>
#include <cmath>

namespace pushforward {
namespace {

// A cell is about half a cube's half-width wide: a cell's cubes are then about twice those that cover a point of it, and
// a cube is listed in about 125 cells.
constexpr double cells_per_half_width = 2;
constexpr int64_t most_entries = int64_t(1) << 23;

struct Box {
  double low[3], high[3];
  bool finite;
};

// A cube, a little larger than any rounding of (x - center) / scale can make it.
template <class T>
Box box_of(const MosaicJob& job, int64_t cube) {
  const T* center = reinterpret_cast<const T*>(job.centers) + 3 * cube;
  const double scale = reinterpret_cast<const T*>(job.scales)[cube];
  Box box;
  box.finite = std::isfinite(scale);
  for (int axis = 0; axis < 3; ++axis) {
    const double at = center[axis], reach = scale * (1 + 1e-5) + std::abs(at) * 1e-5;
    box.low[axis] = at - reach;
    box.high[axis] = at + reach;
    box.finite = box.finite && std::isfinite(at);
  }
  return box;
}

template <class T>
void build(MosaicJob& job, int most_cells, MosaicIndex& index) {
  double width = 0;
  int64_t count = 0;
  for (int axis = 0; axis < 3; ++axis) {
    job.origin[axis] = INFINITY;
    job.end[axis] = -INFINITY;
  }
  for (int64_t cube = 0; cube < job.cubes; ++cube) {
    const Box box = box_of<T>(job, cube);
    if (!box.finite) continue;
    ++count;
    width += reinterpret_cast<const T*>(job.scales)[cube];
    for (int axis = 0; axis < 3; ++axis) {
      job.origin[axis] = std::min(job.origin[axis], box.low[axis]);
      job.end[axis] = std::max(job.end[axis], box.high[axis]);
    }
  }
  double extent = 0;
  for (int axis = 0; axis < 3 && count; ++axis) extent = std::max(extent, job.end[axis] - job.origin[axis]);
  for (double side = count ? std::max(width / double(count) / cells_per_half_width, extent / most_cells) : 1;; side *= 2) {
    job.per_cell = 1 / side;
    int64_t cells = 1;
    for (int axis = 0; axis < 3; ++axis) {
      const double along = count ? std::ceil((job.end[axis] - job.origin[axis]) / side) : 1;
      job.cells[axis] = int(std::clamp(along, 1.0, double(most_cells)));
      cells *= job.cells[axis];
    }
    index.begin.assign(size_t(cells + 1), 0);
    auto visit = [&](auto&& body) {
      for (int64_t cube = 0; cube < job.cubes; ++cube) {
        const Box box = box_of<T>(job, cube);
        if (!box.finite) continue;
        int from[3], to[3];
        for (int axis = 0; axis < 3; ++axis) {
          from[axis] = mosaic_cell(job, axis, box.low[axis]);
          to[axis] = mosaic_cell(job, axis, box.high[axis]);
        }
        for (int x = from[0]; x <= to[0]; ++x) {
          for (int y = from[1]; y <= to[1]; ++y) {
            const int64_t row = (int64_t(x) * job.cells[1] + y) * job.cells[2];
            for (int z = from[2]; z <= to[2]; ++z) body(size_t(row + z), cube);
          }
        }
      }
    };
    // Count, then fill: cubes come in ascending order, and so every cell's list is ascending.
    visit([&](size_t cell, int64_t) { ++index.begin[cell + 1]; });
    for (size_t cell = 1; cell < index.begin.size(); ++cell) index.begin[cell] += index.begin[cell - 1];
    if (index.begin.back() > std::max(most_entries, job.cubes) && cells > 1) continue;
    index.near.resize(size_t(index.begin.back()));
    std::vector<int64_t> next(index.begin.begin(), index.begin.end() - 1);
    visit([&](size_t cell, int64_t cube) { index.near[size_t(next[cell]++)] = int32_t(cube); });
    break;
  }
  job.near = index.near.data();
  job.begin = index.begin.data();
}

}  // namespace

void build_mosaic_index(MosaicJob& job, int most_cells, MosaicIndex& storage) {
  job.dtype == Dtype::float64 ? build<double>(job, most_cells, storage) : build<float>(job, most_cells, storage);
}

}  // namespace pushforward
