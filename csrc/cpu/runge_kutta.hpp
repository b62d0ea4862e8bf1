// A Runge-Kutta step, as plain data: what the binding fills in and every instruction set's kernel reads.
#pragma once

#include "../core/runge_kutta.hpp"
#include "job.hpp"
#include "row_sums.hpp"

namespace pushforward {

// All tensors are contiguous [rows, row_size].
struct StepJob : RowUnits {
  Dtype dtype;
  StepRows tableau;
  const char* x;
  const char* stage[max_stages];
  char* out;  // may be x or a stage
  char* dense[max_dense];
  const double* h;  // one for each row, h_step numbers apart (0: one for all)
  int64_t h_step;
  double* error;  // [rows][estimates]
  double* sums;   // [estimates][rows][blocks]: sums of squares of blocks, where rows have more than one
};

// Work on units [first, last): new state, dense output, and the errors of rows of one block.
PF_KERNEL(void, step_units, const StepJob& job, int64_t first, int64_t last)

}  // namespace pushforward
