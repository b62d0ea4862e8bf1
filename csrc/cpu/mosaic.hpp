// A sum of weighted local grids (Mosaic-SDF): cubes with values on a grid inside each, asked at points. An index of equal
// cells says which cubes come near a point.
#pragma once

#include <cstdint>
#include <vector>

#include "job.hpp"

namespace pushforward {

struct MosaicJob {
  Dtype dtype;  // float32 or float64
  const char *points, *centers, *scales, *values;
  char* out;
  bool* inside;
  int64_t queries, cubes;
  int nodes;  // along an edge of a cube
  double outside;
  // The index: cell (x, y, z) of cells[0] x cells[1] x cells[2] holds the cubes near[begin[cell]] to near[begin[cell + 1]],
  // ascending.
  double origin[3], end[3], per_cell;
  int cells[3];
  const int32_t* near;
  const int64_t* begin;
};

// Which cell along one axis; every point of a cube falls between the cells of its two faces.
inline int mosaic_cell(const MosaicJob& job, int axis, double at) {
  const double cell = (at - job.origin[axis]) * job.per_cell;
  const int last = job.cells[axis] - 1;
  return !(cell > 0) ? 0 : cell < last ? int(cell) : last;
}

struct MosaicIndex {
  std::vector<int32_t> near;
  std::vector<int64_t> begin;
};

// Fill in the job's index, which `storage` holds, with at most `most_cells` cells along an axis.
void build_mosaic_index(MosaicJob& job, int most_cells, MosaicIndex& storage);

PF_KERNEL(void, mosaic_queries, const MosaicJob& job, int64_t first, int64_t last)

}  // namespace pushforward
