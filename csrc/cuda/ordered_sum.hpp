// Ordered sums (core/ordered_sum.hpp) by the threads of a block: two levels of the tree a phase.
#pragma once

#include "../core/ordered_sum.hpp"
#include "launch.hpp"

namespace pushforward::PF_ISA {

// Two levels of a tree over 4 * left terms, of which the first `count` are there and the others count as zero: what is
// left in place of term `first` < left.
template <int left, class Term>
PF_HD double sum_of_four(const Term& term, int first, int count) {
  return halving_sum<4>([&](int i) { return first + i * left < count ? term(first + i * left) : 0.0; });
}

// The same for all of them and for many rows of up to 1024 terms, one after the other, in the memory of a block. No two
// threads touch the same term. Rows that are short enough already stay as they are.
template <int left, int threads>
PF_HD void add_fours(double* v, int rows, int count, int thread) {
  if (count <= left) return;
#pragma unroll 1
  for (int item = thread; item < rows * left; item += threads) {
    double* const row = v + item / left * count;
    const int first = item % left;
    row[first] = sum_of_four<left>([&](int i) { return row[i]; }, first, count);
  }
}

}  // namespace pushforward::PF_ISA
