// `combine` on a GPU: a thread adds up a few neighbours in a row.
#include "combine.hpp"

#include <type_traits>

#include "../core/combine.hpp"
#include "random.hpp"

namespace pushforward::PF_ISA {
namespace {

// Which elements a thread has: `count` neighbours from `first` on, in a row.
struct Stretch {
  int64_t row, first;
  int count;
};

// Rows cut into stretches of N, the last of which may be shorter.
template <int N>
struct Stretches {
  int64_t rows, row_size, in_row;

  Stretches(int64_t rows, int64_t row_size) : rows(rows), row_size(row_size), in_row(ceil_division(row_size, N)) {}
  PF_HD int64_t total() const { return rows * in_row; }
  PF_HD Stretch at(int64_t index) const {
    const Split split(index, in_row);
    const int64_t first = split.rest * N, left = row_size - first;
    return {split.quotient, first, left < N ? int(left) : N};
  }
};

// O: most outputs. `noisy`: there are draws. `tabled`: coefficients come from a table. `aligned`: all stretches are whole
// and begin at multiples of 16 bytes.
template <class Format, int O, bool noisy, bool tabled, bool aligned>
struct Combine {
  using Stored = typename Format::Stored;
  using Wide = typename Format::Wide;
  using Shared = std::conditional_t<noisy, Streams<max_draws>, Nothing>;
  using Local = Nothing;
  static constexpr int threads = 256, phases = noisy ? 2 : 1, N = Format::several;

  Stretches<N> stretches;
  int inputs, outputs, draws;
  const Stored* in[max_inputs];
  Stored* out[O];
  Wide weight[tabled ? 1 : O][tabled ? 1 : max_inputs + (noisy ? max_draws : 0)];
  const Wide* table;
  const int64_t* groups;
  bool each;
  int64_t outer, run_length, inner;
  NoiseKey noise[noisy ? max_draws : 1];
  int32_t* status;

  explicit Combine(const GpuCombination& job) : stretches(job.rows, job.row_size) {
    inputs = job.inputs;
    outputs = job.outputs;
    draws = job.draws;
    for (int k = 0; k < inputs; ++k) in[k] = static_cast<const Stored*>(job.in[k]);
    for (int o = 0; o < outputs; ++o) out[o] = static_cast<Stored*>(job.out[o]);
    if constexpr (!tabled) {
      for (int o = 0; o < outputs; ++o) {
        for (int t = 0; t < inputs + draws; ++t) weight[o][t] = Wide(job.weight[o][t]);
      }
    }
    table = static_cast<const Wide*>(job.table);
    groups = job.groups;
    each = job.each;
    outer = job.outer;
    run_length = job.run;
    inner = job.inner;
    if constexpr (noisy) {
      for (int d = 0; d < draws; ++d) noise[d] = job.noise[d];
    }
    status = job.status;
  }

  // The first coefficients of the elements' rows of the table.
  PF_HD void find_rows(const Stretch& at, int64_t element, const Wide* (&row)[N]) const {
    const int64_t size = int64_t(outputs) * (inputs + draws);
    if (each) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const int64_t e = i < at.count ? element + i : element;
        const int64_t index = Split(e, outer).quotient * inner + Split(Split(e, run_length).quotient, inner).rest;
        row[i] = table + scalar(groups + index) * size;
      }
    } else {
      const Wide* const same = table + (groups ? scalar(groups + at.row) : at.row) * size;
#pragma unroll
      for (int i = 0; i < N; ++i) row[i] = same;
    }
  }

  // Term t of all sums. The first one is not added to zero, which would lose the sign of a zero.
  template <bool first>
  PF_HD void add_term(Wide (&sum)[O][N], const Wide (&x)[N], int t, const Wide* const (&row)[N]) const {
#pragma unroll
    for (int o = 0; o < O; ++o) {
      if (o >= outputs) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        Wide w;
        if constexpr (tabled) {
          w = scalar(row[i] + o * (inputs + draws) + t);
        } else {
          w = weight[o][t];
        }
        sum[o][i] = first ? x[i] * w : sum[o][i] + x[i] * w;
      }
    }
  }

  PF_HD void read_input(int k, int64_t element, int count, Wide (&x)[N]) const {
    Stored stored[N];
    read<aligned>(in[k] + element, count, stored);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = Format::widen(stored[i]);
  }

  PF_HD void draw_normals(int d, Key stream, const Stretch& at, Wide (&x)[N]) const {
    float z[N];
    draw<Normals>(noise[d], stream, at.first, z);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = Wide(z[i]);
  }

  template <int phase>
  PF_HD void run(Place place, Shared& streams, Local&) const {
    const int64_t start = place.block * threads, index = start + place.thread;
    [[maybe_unused]] const int64_t first_row = noisy ? stretches.at(start).row : 0;
    if constexpr (noisy && phase == 0) {
      streams.prepare(noise, draws, first_row, stretches.rows, place.thread);
      return;
    }
    if (index >= stretches.total()) return;
    const Stretch at = stretches.at(index);
    const int64_t element = at.row * stretches.row_size + at.first;
    const Wide* row[N] = {};
    if constexpr (tabled) find_rows(at, element, row);

    Wide x[N], sum[O][N] = {};
    if (inputs > 0) {
      read_input(0, element, at.count, x);
      add_term<true>(sum, x, 0, row);
    }
#pragma unroll 4
    for (int k = 1; k < inputs; ++k) {
      read_input(k, element, at.count, x);
      add_term<false>(sum, x, k, row);
    }
    if constexpr (noisy) {
#pragma unroll 1
      for (int d = 0; d < draws; ++d) {
        draw_normals(d, streams.at(noise, d, first_row, at.row), at, x);
        if (inputs + d == 0) {
          add_term<true>(sum, x, 0, row);
        } else {
          add_term<false>(sum, x, inputs + d, row);
        }
      }
    }

    bool finite = true;
#pragma unroll
    for (int o = 0; o < O; ++o) {
      if (o >= outputs) continue;
      Stored stored[N];
#pragma unroll
      for (int i = 0; i < N; ++i) {
        stored[i] = Format::narrow(sum[o][i]);
        if (status) finite = finite && (i >= at.count || is_finite(Format::widen(stored[i])));
      }
      write<aligned>(out[o] + element, at.count, stored);
    }
    if (status && !finite) atomic_or(status, 1);
  }
};

template <class Kernel>
void start(const GpuCombination& job) {
  const Kernel kernel(job);
  launch(ceil_division(kernel.stretches.total(), Kernel::threads), kernel, job.stream);
}

template <class Format, bool noisy>
void choose(const GpuCombination& job) {
  if (job.table) return start<Combine<Format, max_outputs, noisy, true, false>>(job);
  bool aligned = job.row_size % Format::several == 0;
  for (int k = 0; k < job.inputs; ++k) aligned = aligned && is_aligned(job.in[k]);
  for (int o = 0; o < job.outputs; ++o) aligned = aligned && is_aligned(job.out[o]);
  if (job.outputs == 1) {
    return aligned ? start<Combine<Format, 1, noisy, false, true>>(job)
                   : start<Combine<Format, 1, noisy, false, false>>(job);
  }
  return aligned ? start<Combine<Format, max_outputs, noisy, false, true>>(job)
                 : start<Combine<Format, max_outputs, noisy, false, false>>(job);
}

}  // namespace

void run_combination(const GpuCombination& job) {
  if (job.rows * job.row_size == 0) return;
  with_format(job.dtype, [&](auto format) {
    using Format = decltype(format);
    job.draws > 0 ? choose<Format, true>(job) : choose<Format, false>(job);
  });
}

// ---- uniforms --------------------------------------------------------------------------------------------------------

namespace {

template <class Distribution, bool aligned>
struct Fill {
  using Number = typename Distribution::Number;
  using Shared = Streams<1>;
  using Local = Nothing;
  static constexpr int threads = 256, phases = 2, N = 4;

  Stretches<N> stretches;
  NoiseKey key;
  Number* out;

  template <int phase>
  PF_HD void run(Place place, Shared& streams, Local&) const {
    const int64_t start = place.block * threads, index = start + place.thread, first_row = stretches.at(start).row;
    if constexpr (phase == 0) {
      streams.prepare(&key, 1, first_row, stretches.rows, place.thread);
      return;
    }
    if (index >= stretches.total()) return;
    const Stretch at = stretches.at(index);
    Number numbers[N];
    draw<Distribution>(key, streams.at(&key, 0, first_row, at.row), at.first, numbers);
    write<aligned>(out + at.row * stretches.row_size + at.first, at.count, numbers);
  }
};

template <class Distribution>
void fill(const GpuRandom& random) {
  const RandomJob& job = random.job;
  const Stretches<4> stretches(job.rows, job.row_size);
  auto* out = reinterpret_cast<typename Distribution::Number*>(job.out);
  const int64_t blocks = ceil_division(stretches.total(), 256);
  if (job.row_size % 4 == 0 && is_aligned(out)) {
    launch(blocks, Fill<Distribution, true>{stretches, job.key, out}, random.stream);
  } else {
    launch(blocks, Fill<Distribution, false>{stretches, job.key, out}, random.stream);
  }
}

}  // namespace

// Uniforms alone: a normal is a combination of nothing but a draw.
void run_random(const GpuRandom& random) {
  if (random.job.rows * random.job.row_size == 0) return;
  random.job.dtype == Dtype::float64 ? fill<DoubleUniforms>(random) : fill<Uniforms>(random);
}

}  // namespace pushforward::PF_ISA
