// Sums whose value does not depend on who adds: not on threads, vector widths, batches or devices.
//
// A row is cut into blocks of 1024 terms. Within a block, terms half a power of two apart are added, then halves of what
// is left, and so on: v[i] + v[i + 512], then v[i] + v[i + 256] ... Terms past the end count as zero. The sums of the
// blocks form a shorter row, which is added up in the same way, until one number is left. Rounding grows with the
// logarithm of the number of terms.
#pragma once

#include "config.hpp"

namespace pushforward {

constexpr int sum_block = 1024;

}  // namespace pushforward

namespace pushforward::PF_ISA {

// The tree over term(0) ... term(N - 1), N a power of two; in registers where N is small. `first` and `stride` are for
// the recursion: a node adds the terms whose numbers leave the remainder `first` when divided by `stride`.
template <int N, int stride = 1, class Term>
PF_HD auto halving_sum(const Term& term, int first = 0) {
  if constexpr (stride == N) {
    return term(first);
  } else {
    return halving_sum<N, 2 * stride>(term, first) + halving_sum<N, 2 * stride>(term, first + stride);
  }
}

// The tree over `count` terms, 1 to 1024 of them, in memory that is overwritten. Nothing is read past the end.
PF_HD double block_sum(double* v, int count) {
  int half = sum_block / 2;
  while (half >= count && half > 0) half /= 2;
  for (; half > 0; half /= 2) {
    for (int i = 0; i < count - half; ++i) v[i] = v[i] + v[i + half];
    count = half;
  }
  return v[0];
}

// The sum of a row from the sums of its blocks, any number of them but zero, in memory that is overwritten.
PF_HD double sum_of_blocks(double* v, int64_t count) {
  while (count > 1) {
    int64_t blocks = 0;
    for (int64_t first = 0; first < count; first += sum_block) {
      const int64_t left = count - first;
      v[blocks++] = block_sum(v + first, int(left < sum_block ? left : sum_block));
    }
    count = blocks;
  }
  return v[0];
}

}  // namespace pushforward::PF_ISA
