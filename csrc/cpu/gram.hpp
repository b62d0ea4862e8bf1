// Inner products of rows of a few tensors, as plain data: what the binding fills in and the kernels read.
#pragma once

#include "isa.hpp"
#include "job.hpp"
#include "row_sums.hpp"

namespace pushforward {

constexpr int max_gram = 20;
constexpr int max_gram_sums = max_gram * (max_gram + 1) / 2 + max_gram;

// All tensors are contiguous [rows, row_size].
struct GramJob : RowUnits {
  Dtype dtype;
  int tensors;
  const char* tensor[max_gram];
  double* products;  // [rows][tensors][tensors]
  double* sums;      // [rows][tensors]
  double* partial;   // [quantities][rows][blocks], where rows have more than one block

  // What is summed: the products of pairs i <= j, row by row of the triangle, then each tensor by itself.
  int quantities() const { return tensors * (tensors + 1) / 2 + tensors; }
  void put(int64_t row, int i, int j, double sum) const {
    if (j == tensors) {
      sums[row * tensors + i] = sum;
    } else {
      products[(row * tensors + i) * tensors + j] = products[(row * tensors + j) * tensors + i] = sum;
    }
  }
};

// Work on units [first, last).
PF_KERNEL(void, gram_units, const GramJob& job, int64_t first, int64_t last)

}  // namespace pushforward
