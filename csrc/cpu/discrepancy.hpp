// Sums of a kernel over pairs of points, a tile of pairs at a time: no matrix of distances.
#pragma once

#include <cstdint>

#include "isa.hpp"

namespace pushforward {

constexpr int tile_columns = 64;
constexpr int max_bandwidths = 16;

enum class PairKernel : int { gaussian = 0, rational_quadratic = 1, distance = 2 };

struct PairJob {
  bool is_double;  // all points are double or all are float
  PairKernel kernel;
  int bandwidths;  // 1 for `distance`
  double rates[max_bandwidths];
  int64_t features;
};

// A set of points, in two forms.
struct Points {
  int64_t count;
  int64_t stride;       // of `rows`, at least `features`
  const void* rows;     // [count][stride]
  const void* columns;  // [blocks of 64 points][features][64], zeros after the last point
};

// Sum of the kernel over the rows [first, last) of x and the blocks [first_block, last_block) of y. `same`: x is y, and
// only blocks from first / 64 on are asked for: pairs of different blocks count twice, a point with itself not at all.
PF_KERNEL(double, pair_sum, const PairJob& job, const Points& x, const Points& y, int64_t first, int64_t last,
          int64_t first_block, int64_t last_block, bool same)

// total[i - first][k] += coefficient * sum_j slope(|x_i - y_j|^2) (x_ik - y_jk), for the rows [first, last) of x, at most
// `gradient_rows` of them, and all of y, rows of both being whole vectors of 64 bytes; `same` leaves out j = i.
constexpr int gradient_rows = 16;
PF_KERNEL(void, pair_gradient, const PairJob& job, const Points& x, const Points& y, int64_t first, int64_t last,
          bool same, double coefficient, double* total)

// exp of `count` floats up to 0, for the test of its accuracy.
PF_KERNEL(void, exponentials, const float* x, float* out, int64_t count)

}  // namespace pushforward
