// Wavelet transforms of planes, a row of results at a time: sums down the columns first, into rows of wide numbers that
// stay in the first-level cache, then sums along those. Compiled once for each instruction set; no standard templates.
#include "../pairs.hpp"
#include "../planes.hpp"

namespace pushforward::PF_ISA {
namespace {

template <class Wide>
Wide* scratch_row(char* scratch, int64_t elements, int number) {
  return reinterpret_cast<Wide*>(scratch + number * row_bytes(elements));
}

// Where element `at` of a line of `size` is found beyond its borders; -1: nowhere, it is zero.
PF_HD int64_t reflect(int64_t at, int64_t size, Border border) {
  if (at >= 0 && at < size) return at;
  if (border == Border::zero) return -1;
  const int64_t period = border == Border::periodic ? size : 2 * size;
  at %= period;
  if (at < 0) at += period;
  return at < size ? at : period - 1 - at;
}

// ---- Haar: everything stays in registers.

template <class Format, bool past_cache>
void haar_row(const WaveletJob& job, int64_t plane, int64_t row) {
  using Stored = typename Format::Stored;
  using Pack = typename Format::Pack;
  using Wide = typename Format::Wide;
  constexpr int width = Format::width;
  const Stored* above = reinterpret_cast<const Stored*>(job.in[0]) + (plane * job.height + 2 * row) * job.width;
  const Stored* below = above + job.width;
  Stored* out[4];
  for (int b = 0; b < 4; ++b) {
    out[b] = reinterpret_cast<Stored*>(job.out[b]) + (plane * job.band_height + row) * job.band_width;
  }
  const auto half = Wide(0.5);
  const bool done = cover<width>(0, job.band_width, [&](int64_t i) __attribute__((always_inline)) {
    const Pack a0 = Format::load_pack(above + 2 * i), a1 = Format::load_pack(above + 2 * i + width);
    const Pack b0 = Format::load_pack(below + 2 * i), b1 = Format::load_pack(below + 2 * i + width);
    Pack total_even, total_odd, change_even, change_odd;
    split_pairs(Pack(a0 + b0), Pack(a1 + b1), total_even, total_odd);
    split_pairs(Pack(a0 - b0), Pack(a1 - b1), change_even, change_odd);
    put<Format, past_cache>(out[0] + i, (total_even + total_odd) * half);
    put<Format, past_cache>(out[1] + i, (change_even + change_odd) * half);
    put<Format, past_cache>(out[2] + i, (total_even - total_odd) * half);
    put<Format, past_cache>(out[3] + i, (change_even - change_odd) * half);
  });
  for (int64_t i = done ? job.band_width : 0; i < job.band_width; ++i) {
    const Wide a = Format::load_one(above + 2 * i), b = Format::load_one(above + 2 * i + 1);
    const Wide c = Format::load_one(below + 2 * i), d = Format::load_one(below + 2 * i + 1);
    put_one<Format>(out[0] + i, ((a + c) + (b + d)) * half);
    put_one<Format>(out[1] + i, ((a - c) + (b - d)) * half);
    put_one<Format>(out[2] + i, ((a + c) - (b + d)) * half);
    put_one<Format>(out[3] + i, ((a - c) - (b - d)) * half);
  }
}

template <class Format, bool past_cache>
void inverse_haar_row(const WaveletJob& job, int64_t plane, int64_t row) {
  using Stored = typename Format::Stored;
  using Pack = typename Format::Pack;
  using Wide = typename Format::Wide;
  constexpr int width = Format::width;
  Stored* above = reinterpret_cast<Stored*>(job.out[0]) + (plane * job.height + 2 * row) * job.width;
  Stored* below = above + job.width;
  const Stored* in[4];
  for (int b = 0; b < 4; ++b) {
    in[b] = reinterpret_cast<const Stored*>(job.in[b]) + (plane * job.band_height + row) * job.band_width;
  }
  const auto half = Wide(0.5);
  const bool done = cover<width>(0, job.band_width, [&](int64_t i) __attribute__((always_inline)) {
    const Pack low = Format::load_pack(in[0] + i), horizontal = Format::load_pack(in[1] + i);
    const Pack vertical = Format::load_pack(in[2] + i), diagonal = Format::load_pack(in[3] + i);
    Pack total0, total1, change0, change1;
    join_pairs(Pack(low + vertical), Pack(low - vertical), total0, total1);
    join_pairs(Pack(horizontal + diagonal), Pack(horizontal - diagonal), change0, change1);
    put<Format, past_cache>(above + 2 * i, (total0 + change0) * half);
    put<Format, past_cache>(above + 2 * i + width, (total1 + change1) * half);
    put<Format, past_cache>(below + 2 * i, (total0 - change0) * half);
    put<Format, past_cache>(below + 2 * i + width, (total1 - change1) * half);
  });
  for (int64_t i = done ? job.band_width : 0; i < job.band_width; ++i) {
    const Wide low = Format::load_one(in[0] + i), horizontal = Format::load_one(in[1] + i);
    const Wide vertical = Format::load_one(in[2] + i), diagonal = Format::load_one(in[3] + i);
    put_one<Format>(above + 2 * i, ((low + vertical) + (horizontal + diagonal)) * half);
    put_one<Format>(above + 2 * i + 1, ((low - vertical) + (horizontal - diagonal)) * half);
    put_one<Format>(below + 2 * i, ((low + vertical) - (horizontal + diagonal)) * half);
    put_one<Format>(below + 2 * i + 1, ((low - vertical) - (horizontal - diagonal)) * half);
  }
}

// ---- Any filter. `fixed` taps, or (fixed = 0) as many as the job says.

template <class Format, int fixed, bool past_cache>
void analysis_row(const WaveletJob& job, int64_t plane, int64_t row, char* scratch) {
  using Stored = typename Format::Stored;
  using Pack = typename Format::Pack;
  using Wide = typename Format::Wide;
  constexpr int width = Format::width, most = fixed ? fixed : max_taps;
  const int taps = fixed ? fixed : job.taps;
  const int64_t offset = job.offset;
  Wide h[most], g[most];
  const Stored* rows[most];
  const Stored* zeros = scratch_row<const Stored>(scratch, job.band_width, 4);
  for (int k = 0; k < taps; ++k) {
    h[k] = Wide(job.low[k]);
    g[k] = Wide(job.high[k]);
    const int64_t at = reflect(2 * row + offset + k, job.height, job.border);
    rows[k] = at < 0 ? zeros : reinterpret_cast<const Stored*>(job.in[0]) + (plane * job.height + at) * job.width;
  }

  // Down the columns: low[k % 2][s] is the sum with h in column 2 s + k % 2 + offset, high the one with g.
  Wide *low[2], *high[2];
  for (int parity = 0; parity < 2; ++parity) {
    low[parity] = scratch_row<Wide>(scratch, job.band_width, parity);
    high[parity] = scratch_row<Wide>(scratch, job.band_width, 2 + parity);
  }
  const int64_t count = job.band_width + taps / 2 - 1;
  int64_t first = (1 - offset) / 2, last = (job.width - offset) / 2;  // offset <= 0
  if (last > count) last = count;
  const bool done = cover<width>(first, last, [&](int64_t s) __attribute__((always_inline)) {
    const int64_t at = 2 * s + offset;
    Pack a = Format::load_pack(rows[0] + at), b = Format::load_pack(rows[0] + at + width);
    Pack low_a = a * h[0], low_b = b * h[0], high_a = a * g[0], high_b = b * g[0];
#pragma GCC unroll 8
    for (int k = 1; k < taps; ++k) {
      a = Format::load_pack(rows[k] + at);
      b = Format::load_pack(rows[k] + at + width);
      low_a = low_a + a * h[k];
      low_b = low_b + b * h[k];
      high_a = high_a + a * g[k];
      high_b = high_b + b * g[k];
    }
    Pack even, odd;
    split_pairs(low_a, low_b, even, odd);
    store(low[0] + s, even);
    store(low[1] + s, odd);
    split_pairs(high_a, high_b, even, odd);
    store(high[0] + s, even);
    store(high[1] + s, odd);
  });
  for (int64_t s = 0; s < count; ++s) {
    if (done && s == first) s = last;
    if (s >= count) break;
    for (int parity = 0; parity < 2; ++parity) {
      const int64_t at = reflect(2 * s + parity + offset, job.width, job.border);
      Wide low_sum = 0, high_sum = 0;
      if (at >= 0) {
        low_sum = Format::load_one(rows[0] + at) * h[0];
        high_sum = Format::load_one(rows[0] + at) * g[0];
        for (int k = 1; k < taps; ++k) {
          low_sum = low_sum + Format::load_one(rows[k] + at) * h[k];
          high_sum = high_sum + Format::load_one(rows[k] + at) * g[k];
        }
      }
      low[parity][s] = low_sum;
      high[parity][s] = high_sum;
    }
  }

  Stored* out[4];
  for (int b = 0; b < 4; ++b) {
    out[b] = reinterpret_cast<Stored*>(job.out[b]) + (plane * job.band_height + row) * job.band_width;
  }
  const bool all = cover<width>(0, job.band_width, [&](int64_t i) __attribute__((always_inline)) {
    Pack x = load<Pack>(low[0] + i), y = load<Pack>(high[0] + i);
    Pack sums[4] = {x * h[0], y * h[0], x * g[0], y * g[0]};
#pragma GCC unroll 8
    for (int k = 1; k < taps; ++k) {
      x = load<Pack>(low[k % 2] + i + k / 2);
      y = load<Pack>(high[k % 2] + i + k / 2);
      sums[0] = sums[0] + x * h[k];
      sums[1] = sums[1] + y * h[k];
      sums[2] = sums[2] + x * g[k];
      sums[3] = sums[3] + y * g[k];
    }
    for (int b = 0; b < 4; ++b) put<Format, past_cache>(out[b] + i, sums[b]);
  });
  for (int64_t i = all ? job.band_width : 0; i < job.band_width; ++i) {
    Wide sums[4];
    for (int b = 0; b < 4; ++b) {
      const Wide* weights = b < 2 ? h : g;
      Wide** line = b % 2 ? high : low;
      sums[b] = line[0][i] * weights[0];
      for (int k = 1; k < taps; ++k) sums[b] = sums[b] + line[k % 2][i + k / 2] * weights[k];
      put_one<Format>(out[b] + i, sums[b]);
    }
  }
}

// Element n of a line is a sum over bands' elements o with n = offset + 2 o + k: k runs over one parity.
template <class Format, int fixed, bool past_cache>
void synthesis_row(const WaveletJob& job, int64_t plane, int64_t row, char* scratch) {
  using Stored = typename Format::Stored;
  using Pack = typename Format::Pack;
  using Wide = typename Format::Wide;
  constexpr int width = Format::width, most = fixed ? fixed / 2 : max_taps / 2;
  const int half = fixed ? fixed / 2 : job.taps / 2;
  const int64_t ahead = -job.offset, columns = job.band_width;
  // Weights by parity, for the sums down the columns ...
  const int64_t parity = (row + ahead) % 2, centre = (row + ahead) / 2;
  Wide h[most], g[most];
  const Stored* rows[4][most];
  const Stored* zeros = scratch_row<const Stored>(scratch, job.band_width, 4);
  for (int j = 0; j < half; ++j) {
    h[j] = Wide(job.low[2 * j + parity]);
    g[j] = Wide(job.high[2 * j + parity]);
    const int64_t at = reflect(centre - j, job.band_height, job.border);
    for (int b = 0; b < 4; ++b) {
      const Stored* band = reinterpret_cast<const Stored*>(job.in[b]);
      rows[b][j] = at < 0 ? zeros : band + (plane * job.band_height + at) * columns;
    }
  }
  // ... which go to low[o - start] and high[o - start], from the smallest o on that a column needs to the largest.
  const int64_t start = ahead / 2 - (half - 1), count = (job.width - 1 + ahead) / 2 - start + 1;
  Wide *low = scratch_row<Wide>(scratch, columns, 0), *high = scratch_row<Wide>(scratch, columns, 2);
  const int64_t first = start < 0 ? 0 : start, last = start + count < columns ? start + count : columns;
  const bool done = cover<width>(first, last, [&](int64_t o) __attribute__((always_inline)) {
    Pack total = Format::load_pack(rows[0][0] + o) * h[0] + Format::load_pack(rows[1][0] + o) * g[0];
    Pack change = Format::load_pack(rows[2][0] + o) * h[0] + Format::load_pack(rows[3][0] + o) * g[0];
#pragma GCC unroll 8
    for (int j = 1; j < half; ++j) {
      total = total + Format::load_pack(rows[0][j] + o) * h[j];
      total = total + Format::load_pack(rows[1][j] + o) * g[j];
      change = change + Format::load_pack(rows[2][j] + o) * h[j];
      change = change + Format::load_pack(rows[3][j] + o) * g[j];
    }
    store(low + (o - start), total);
    store(high + (o - start), change);
  });
  for (int64_t o = start; o < start + count; ++o) {
    if (done && o == first) o = last;
    if (o >= start + count) break;
    const int64_t at = reflect(o, columns, job.border);
    Wide total = 0, change = 0;
    if (at >= 0) {
      total = Format::load_one(rows[0][0] + at) * h[0] + Format::load_one(rows[1][0] + at) * g[0];
      change = Format::load_one(rows[2][0] + at) * h[0] + Format::load_one(rows[3][0] + at) * g[0];
      for (int j = 1; j < half; ++j) {
        total = total + Format::load_one(rows[0][j] + at) * h[j];
        total = total + Format::load_one(rows[1][j] + at) * g[j];
        change = change + Format::load_one(rows[2][j] + at) * h[j];
        change = change + Format::load_one(rows[3][j] + at) * g[j];
      }
    }
    low[o - start] = total;
    high[o - start] = change;
  }

  // Along the row, columns 2 r and 2 r + 1 together: line[parity] points where o = r + (parity + ahead) / 2 lies.
  Wide low_weight[2][most], high_weight[2][most];
  const Wide *low_line[2], *high_line[2];
  for (int side = 0; side < 2; ++side) {
    for (int j = 0; j < half; ++j) {
      low_weight[side][j] = Wide(job.low[2 * j + (side + ahead) % 2]);
      high_weight[side][j] = Wide(job.high[2 * j + (side + ahead) % 2]);
    }
    low_line[side] = low + ((side + ahead) / 2 - start);
    high_line[side] = high + ((side + ahead) / 2 - start);
  }
  Stored* out = reinterpret_cast<Stored*>(job.out[0]) + (plane * job.height + row) * job.width;
  const int64_t pairs = job.width / 2;
  const bool all = cover<width>(0, pairs, [&](int64_t r) __attribute__((always_inline)) {
    Pack sum[2];
    for (int side = 0; side < 2; ++side) {
      sum[side] = load<Pack>(low_line[side] + r) * low_weight[side][0] +
                  load<Pack>(high_line[side] + r) * high_weight[side][0];
#pragma GCC unroll 8
      for (int j = 1; j < half; ++j) {
        sum[side] = sum[side] + load<Pack>(low_line[side] + r - j) * low_weight[side][j];
        sum[side] = sum[side] + load<Pack>(high_line[side] + r - j) * high_weight[side][j];
      }
    }
    Pack a, b;
    join_pairs(sum[0], sum[1], a, b);
    put<Format, past_cache>(out + 2 * r, a);
    put<Format, past_cache>(out + 2 * r + width, b);
  });
  for (int64_t n = all ? 2 * pairs : 0; n < job.width; ++n) {
    const int side = n % 2;
    const int64_t r = n / 2;
    Wide sum = low_line[side][r] * low_weight[side][0] + high_line[side][r] * high_weight[side][0];
    for (int j = 1; j < half; ++j) {
      sum = sum + low_line[side][r - j] * low_weight[side][j];
      sum = sum + high_line[side][r - j] * high_weight[side][j];
    }
    put_one<Format>(out + n, sum);
  }
}

template <class Format>
void haar_rows(const WaveletJob& job, int64_t first, int64_t last) {
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t plane = unit / job.band_height, row = unit % job.band_height;
    job.past_cache ? haar_row<Format, true>(job, plane, row) : haar_row<Format, false>(job, plane, row);
  }
}

template <class Format>
void inverse_haar_rows(const WaveletJob& job, int64_t first, int64_t last) {
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t plane = unit / job.band_height, row = unit % job.band_height;
    job.past_cache ? inverse_haar_row<Format, true>(job, plane, row) : inverse_haar_row<Format, false>(job, plane, row);
  }
}

using Row = void (*)(const WaveletJob&, int64_t, int64_t, char*);

template <class Format, int fixed>
Row choose(bool analysis, bool past_cache) {
  if (analysis) return past_cache ? &analysis_row<Format, fixed, true> : &analysis_row<Format, fixed, false>;
  return past_cache ? &synthesis_row<Format, fixed, true> : &synthesis_row<Format, fixed, false>;
}

template <class Format>
void filter_rows(const WaveletJob& job, bool analysis, int64_t first, int64_t last, char* scratch) {
  const Row run = job.taps == 8   ? choose<Format, 8>(analysis, job.past_cache)
                  : job.taps == 4 ? choose<Format, 4>(analysis, job.past_cache)
                                  : choose<Format, 0>(analysis, job.past_cache);
  char* zeros = scratch + 4 * row_bytes(job.band_width);
  const int64_t size = (job.width > job.band_width ? job.width : job.band_width) * int64_t(sizeof(typename Format::Stored));
  for (int64_t i = 0; i < size; ++i) zeros[i] = 0;
  const int64_t rows = analysis ? job.band_height : job.height;
  for (int64_t unit = first; unit < last; ++unit) run(job, unit / rows, unit % rows, scratch);
}

#define PF_BY_DTYPE(function, ...)          \
  switch (job.dtype) {                      \
    case Dtype::float32:                    \
      function<Float32>(__VA_ARGS__);       \
      break;                                \
    case Dtype::float64:                    \
      function<Float64>(__VA_ARGS__);       \
      break;                                \
    case Dtype::bfloat16:                   \
      function<Brain>(__VA_ARGS__);         \
      break;                                \
    default:                                \
      function<Float16>(__VA_ARGS__);       \
  }                                         \
  if (job.past_cache) stream_fence();

}  // namespace

void haar2d_rows(const WaveletJob& job, int64_t first, int64_t last) { PF_BY_DTYPE(haar_rows, job, first, last) }

void ihaar2d_rows(const WaveletJob& job, int64_t first, int64_t last) {
  PF_BY_DTYPE(inverse_haar_rows, job, first, last)
}

void dwt2d_rows(const WaveletJob& job, int64_t first, int64_t last, char* scratch) {
  PF_BY_DTYPE(filter_rows, job, true, first, last, scratch)
}

void idwt2d_rows(const WaveletJob& job, int64_t first, int64_t last, char* scratch) {
  PF_BY_DTYPE(filter_rows, job, false, first, last, scratch)
}

}  // namespace pushforward::PF_ISA
