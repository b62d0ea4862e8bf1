// Dynamic thresholding in four steps: count, collect, select, write. A sample may be counted, collected and written in
// stretches by several threads; everything in between is integers, so that stretches cannot show in the result.
#pragma once

#include <cstdint>

#include "job.hpp"

namespace pushforward {

// The keys are the bits of |x|, ordered like the numbers. Their leading digit has so many values:
constexpr int threshold_bins = 2048;

struct ThresholdJob {
  Dtype dtype;
  const char* x;
  char* out;
  double fraction;  // the quantile lies so far from one order statistic to the next
  double floor, cap;
};

// Add the elements [begin, end) to the histogram of leading digits; true if one of them is a NaN.
PF_KERNEL(bool, threshold_count, const ThresholdJob& job, int64_t begin, int64_t end, uint32_t* histogram)

// Copy the keys of [begin, end) whose leading digit is `bin`, and say how many there are; lower `next` to the smallest
// key with a higher digit. May write up to `threshold_slack` keys past the last.
constexpr int threshold_slack = 16;
PF_KERNEL(int64_t, threshold_collect, const ThresholdJob& job, int64_t begin, int64_t end, int bin, void* keys,
          uint64_t* next)

// The limit of a sample: `keys` (reordered) hold the order statistic number `rank` among them, `next` what is above.
PF_KERNEL(double, threshold_select, const ThresholdJob& job, void* keys, int64_t count, int64_t rank, uint64_t next)

// out = clamp(x, -limit, limit) * (floor / limit) for [begin, end).
PF_KERNEL(void, threshold_write, const ThresholdJob& job, int64_t begin, int64_t end, double limit)

}  // namespace pushforward
