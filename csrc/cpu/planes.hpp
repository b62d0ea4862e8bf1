// Transforms of image planes, as plain data: what the bindings fill in and every instruction set's kernel reads. A unit
// of work is one row of the result (for haar2d and the halving of a plane one row of a band) of one plane.
#pragma once

#include <cstdint>

#include "job.hpp"

namespace pushforward {

constexpr int max_taps = 32;

enum class Border : int { periodic = 0, symmetric = 1, zero = 2 };

// Analysis reads one plane of `height` x `width` and writes four of `band_height` x `band_width`; synthesis the reverse.
struct WaveletJob {
  Dtype dtype;
  const char* in[4];
  char* out[4];
  int64_t planes, height, width, band_height, band_width;
  int taps;
  double low[max_taps], high[max_taps];
  Border border;
  int64_t offset;
  bool past_cache;  // write with non-temporal stores; only where every row of every output is aligned for them
};

// Rows [first, last) of all planes' rows. `scratch`: wavelet_scratch(job) bytes, aligned to 64.
PF_KERNEL(void, haar2d_rows, const WaveletJob& job, int64_t first, int64_t last)
PF_KERNEL(void, ihaar2d_rows, const WaveletJob& job, int64_t first, int64_t last)
PF_KERNEL(void, dwt2d_rows, const WaveletJob& job, int64_t first, int64_t last, char* scratch)
PF_KERNEL(void, idwt2d_rows, const WaveletJob& job, int64_t first, int64_t last, char* scratch)

// A buffer of one row has room for borders and for a vector beyond the end.
constexpr int64_t row_bytes(int64_t elements) { return (8 * (elements + 2 * max_taps + 16) + 63) / 64 * 64; }

// Between planes of `height` x `width` and planes of half the size, rounded up.
struct PyramidJob {
  Dtype dtype;
  const char* in;
  const char* base;  // added by pyramid_up; may be null
  char* out;
  int64_t planes, height, width, low_height, low_width;
  bool smooth;  // the triangle filter, or the box
  double scale;
  bool past_cache;
};

// `scratch`: pyramid_scratch(job) bytes, aligned to 64.
PF_KERNEL(void, pyramid_down_rows, const PyramidJob& job, int64_t first, int64_t last, char* scratch)
PF_KERNEL(void, pyramid_up_rows, const PyramidJob& job, int64_t first, int64_t last, char* scratch)

// Four rows of sums and one row of zeros.
inline int64_t wavelet_scratch(const WaveletJob& job) {
  return 4 * row_bytes(job.band_width) + row_bytes(job.width > job.band_width ? job.width : job.band_width);
}

// Two rows of sums, with room for an edge element in front.
inline int64_t pyramid_scratch(const PyramidJob& job) { return 2 * row_bytes(job.low_width); }

}  // namespace pushforward
