// A Runge-Kutta step on a GPU, as plain data. Tensors are contiguous [rows, row_size] on one device, not empty.
#pragma once

#include "../core/runge_kutta.hpp"
#include "../cpu/job.hpp"
#include "gpu.hpp"

namespace pushforward {

struct GpuStep {
  Dtype dtype;
  int64_t rows, row_size;
  StepRows tableau;
  const void* x;
  const void* stage[max_stages];
  void* out;  // may be x or a stage
  void* dense[max_dense];
  const double* h;  // one for each row, h_step numbers apart (0: one for all)
  int64_t h_step;
  double* error;    // [rows][estimates]
  double* scratch;  // step_scratch() numbers
  void* stream;
};

// Numbers that a step needs room for: sums of blocks, where rows have several, then sums of blocks of those, and so on.
inline int64_t step_scratch(int64_t rows, int64_t row_size, int estimates) {
  int64_t total = 0, count = row_size;
  while ((count = (count + sum_block - 1) / sum_block) > 1) total += count;
  return rows * estimates * total;
}

PF_GPU_FUNCTION(run_step, GpuStep)

}  // namespace pushforward
