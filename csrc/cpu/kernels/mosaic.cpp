// Points asked of a sum of local grids. Compiled once for each instruction set; no standard templates.
#include "../mosaic.hpp"
#include "../simd.hpp"

namespace pushforward::PF_ISA {
namespace {

template <class T>
PF_HD T mix(T a, T b, T part) {
  return a + part * (b - a);
}

template <class T>
T trilinear(const T* values, int nodes, const T* q) {
  int at[3];
  T part[3];
  for (int axis = 0; axis < 3; ++axis) {
    const T u = (q[axis] + T(1)) * (T(nodes - 1) * T(0.5));
    at[axis] = int(u) < nodes - 2 ? int(u) : nodes - 2;
    part[axis] = u - T(at[axis]);
  }
  const T* corner = values + (int64_t(at[0]) * nodes + at[1]) * nodes + at[2];
  const int64_t row = nodes, plane = int64_t(nodes) * nodes;
  const T near = mix(mix(corner[0], corner[1], part[2]), mix(corner[row], corner[row + 1], part[2]), part[1]);
  corner += plane;
  const T far = mix(mix(corner[0], corner[1], part[2]), mix(corner[row], corner[row + 1], part[2]), part[1]);
  return mix(near, far, part[0]);
}

template <class T>
void run(const MosaicJob& job, int64_t first, int64_t last) {
  const T* centers = reinterpret_cast<const T*>(job.centers);
  const T* scales = reinterpret_cast<const T*>(job.scales);
  const T* values = reinterpret_cast<const T*>(job.values);
  const int64_t size = int64_t(job.nodes) * job.nodes * job.nodes;
  T* out = reinterpret_cast<T*>(job.out);
  for (int64_t query = first; query < last; ++query) {
    const T* x = reinterpret_cast<const T*>(job.points) + 3 * query;
    bool near = true;  // of the box around all cubes; false for NaN
    for (int axis = 0; axis < 3; ++axis) near = near && x[axis] >= job.origin[axis] && x[axis] <= job.end[axis];
    double total = 0, weights = 0;
    if (near) {
      const int64_t row = int64_t(mosaic_cell(job, 0, x[0])) * job.cells[1] + mosaic_cell(job, 1, x[1]);
      const int64_t cell = row * job.cells[2] + mosaic_cell(job, 2, x[2]);
      for (int64_t entry = job.begin[cell]; entry < job.begin[cell + 1]; ++entry) {
        const int64_t cube = job.near[entry];
        T q[3], reach = 0;
        for (int axis = 0; axis < 3; ++axis) {
          q[axis] = (x[axis] - centers[3 * cube + axis]) / scales[cube];
          const T size_of = q[axis] < 0 ? -q[axis] : q[axis];
          reach = size_of > reach ? size_of : reach;
        }
        const T weight = T(1) - reach;
        if (!(weight > 0)) continue;
        total = total + double(weight * trilinear(values + cube * size, job.nodes, q));
        weights = weights + double(weight);
      }
    }
    job.inside[query] = weights > 0;
    out[query] = T(weights > 0 ? total / weights : job.outside);
  }
}

}  // namespace

void mosaic_queries(const MosaicJob& job, int64_t first, int64_t last) {
  job.dtype == Dtype::float64 ? run<double>(job, first, last) : run<float>(job, first, last);
}

}  // namespace pushforward::PF_ISA
