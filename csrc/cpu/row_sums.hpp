// Ordered sums over rows (core/ordered_sum.hpp), split into units of work for threads.
#pragma once

#include "../core/ordered_sum.hpp"

namespace pushforward {

// Short rows are worked on side by side, as many as fit into a block; of long ones a unit is one block.
struct RowUnits {
  int64_t rows, row_size;  // neither is zero

  bool short_rows() const { return row_size < 128; }
  int64_t rows_in_unit() const { return sum_block / row_size; }
  int64_t blocks() const { return (row_size + sum_block - 1) / sum_block; }
  int64_t units() const { return short_rows() ? (rows + rows_in_unit() - 1) / rows_in_unit() : rows * blocks(); }
  // Elements of block `at` of a row.
  int block_size(int64_t at) const {
    return int(row_size - at * sum_block < sum_block ? row_size - at * sum_block : sum_block);
  }
};

}  // namespace pushforward

namespace pushforward::PF_ISA {

// Sums of rows of at most 1024 terms that lie one after the other; the terms are overwritten.
PF_HD void sum_rows(double* v, double* sums, int64_t rows, int size) {
  // The tree of the smallest power of two that holds a row, without loops.
  const auto trees = [&](auto tree) {
    for (int64_t r = 0; r < rows; ++r) sums[r] = tree(v + r * size);
  };
  switch (size) {
    case 1:
      return trees([](const double* x) { return x[0]; });
    case 2:
      return trees([](const double* x) { return x[0] + x[1]; });
    case 3:
      return trees([](const double* x) { return (x[0] + x[2]) + x[1]; });
    case 4:
      return trees([](const double* x) { return (x[0] + x[2]) + (x[1] + x[3]); });
    default:
      return trees([size](double* x) { return block_sum(x, size); });
  }
}

}  // namespace pushforward::PF_ISA
