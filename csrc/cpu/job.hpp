// A combination, as plain data: what the binding fills in and every instruction set's kernel reads.
#pragma once

#include <cstdint>

#include "isa.hpp"

namespace pushforward {

constexpr int max_inputs = 16, max_outputs = 4, max_draws = 4, max_dims = 16;

enum class Dtype : int { float32 = 0, float64 = 1, bfloat16 = 2, float16 = 3 };

constexpr int element_size(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

struct NoiseKey {
  uint64_t seed;
  uint32_t purpose, step, stage, attempt;
  const int64_t* samples;  // one id for each row; null: 0, 1, 2, ...
};

// A tensor: contiguous in the order in which elements are numbered, or with strides (in elements) for that order.
struct Operand {
  char* address;
  bool contiguous;
  const int64_t* strides;  // read only if not contiguous
};

// Which row of the tables of coefficients an element uses. Elements that follow each other share it in runs; `dims`,
// the job's shape and the strides, in numbers, lead from the run's number to the group.
struct Groups {
  const int64_t* address;  // null: the sample's own row
  const int64_t* strides;
  int dims;
  int64_t run;
  int64_t count;  // rows of the tables
};

// outs[o][i] = sum_k weights[o][k] ins[k][i] + sum_d scales[o][d] normal_d(i), i running over rows * row_size elements.
struct Job {
  Dtype dtype;
  int inputs, outputs, draws;
  int64_t rows, row_size;
  Operand in[max_inputs], out[max_outputs];
  const double* weights;  // [outputs][inputs], `weights_step` numbers further for each next row (0: all share them)
  const double* scales;   // [outputs][draws]
  int64_t weights_step, scales_step;
  Groups groups;  // read only if coefficients are a table
  NoiseKey noise[max_draws];
  int dims;  // the shape that the strides of operands which are not contiguous refer to
  int64_t shape[max_dims];
  bool past_cache;  // write outputs with non-temporal stores, where there is a loop for that

  int64_t size() const { return rows * row_size; }
  bool table() const { return weights_step != 0 || scales_step != 0; }
};

// Compute elements [first, last); returns 1 if one of them is NaN or infinite, else 0.
PF_KERNEL(int, combine_stretch, const Job& job, int64_t first, int64_t last)

}  // namespace pushforward
