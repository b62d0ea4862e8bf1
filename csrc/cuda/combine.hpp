// A combination on a GPU, as plain data. Tensors are contiguous [rows, row_size] on one device.
#pragma once

#include "../cpu/job.hpp"
#include "../cpu/random_job.hpp"
#include "gpu.hpp"

namespace pushforward {

struct GpuCombination {
  Dtype dtype;
  int inputs, outputs, draws;
  int64_t rows, row_size;  // a row is a sample where there are draws, and has one group of coefficients unless `each`
  const void* in[max_inputs];
  void* out[max_outputs];
  double weight[max_outputs][max_inputs + max_draws];  // where all elements share them: of the inputs, then the draws
  const void* table;      // else: [groups][outputs][inputs + draws] in the type of the sums, on the device
  const int64_t* groups;  // of rows (null: each row has its own); if `each`, of elements e, at
  bool each;              // e / outer * inner + e / run % inner
  int64_t outer, run, inner;
  NoiseKey noise[max_draws];  // ids of samples are on the device
  int32_t* status;            // on the device, or null
  void* stream;
};

struct GpuRandom {
  RandomJob job;
  void* stream;
};

PF_GPU_FUNCTION(run_combination, GpuCombination)
PF_GPU_FUNCTION(run_random, GpuRandom)

}  // namespace pushforward
