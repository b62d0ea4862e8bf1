// A Runge-Kutta step, as plain data: what the binding fills in and every instruction set's kernel reads.
#pragma once

#include "../core/runge_kutta.hpp"
#include "job.hpp"

namespace pushforward {

// All tensors are contiguous [rows, row_size].
struct StepJob {
  Dtype dtype;
  StepRows tableau;
  int64_t rows, row_size;
  const char* x;
  const char* stage[max_stages];
  char* out;  // may be x or a stage
  char* dense[max_dense];
  const double* h;  // one for each row, h_step numbers apart (0: one for all)
  int64_t h_step;
  double* error;  // [rows][estimates]
  double* sums;   // [estimates][rows][blocks]: sums of squares of blocks, where rows have more than one

  // Short rows are worked on side by side, several in a unit, else a unit is a block of a row.
  bool short_rows() const { return row_size < 128; }
  int64_t blocks() const { return (row_size + sum_block - 1) / sum_block; }
  int64_t rows_in_unit() const { return sum_block / row_size; }
  int64_t units() const { return short_rows() ? (rows + rows_in_unit() - 1) / rows_in_unit() : rows * blocks(); }
};

// Work on units [first, last): new state, dense output, and the errors of rows of one block.
PF_KERNEL(void, step_units, const StepJob& job, int64_t first, int64_t last)

}  // namespace pushforward
