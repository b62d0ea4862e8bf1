// Random numbers into a contiguous tensor, as plain data.
#pragma once

#include "job.hpp"

namespace pushforward {

enum class Distribution : int { normal = 0, uniform = 1 };

// rows * row_size elements; uniform numbers are float32 or float64 only.
struct RandomJob {
  Distribution distribution;
  Dtype dtype;
  int64_t rows, row_size;
  NoiseKey key;
  char* out;
  bool past_cache;  // write with non-temporal stores, where arithmetic is not the limit

  int64_t size() const { return rows * row_size; }
};

PF_KERNEL(void, random_stretch, const RandomJob& job, int64_t first, int64_t last)

}  // namespace pushforward
