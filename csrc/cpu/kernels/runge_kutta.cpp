// Runs units of a Runge-Kutta step. Each vector of every stage is read once, for the new state, the estimates and dense
// output; squares of scaled errors wait in the first-level cache to be added in their order.
#include "../runge_kutta.hpp"

#include "../formats.hpp"

namespace pushforward::PF_ISA {
namespace {

// Squares, in double, of a vector of scaled errors.
typedef float HalfFloats __attribute__((vector_size(vector_bytes / 2)));

PF_HD void store_squares(double* to, Doubles ratio) { store(to, ratio * ratio); }
PF_HD void store_squares(double* to, Floats ratio) {
  HalfFloats half[2];
  __builtin_memcpy(half, &ratio, sizeof(ratio));
  for (int i = 0; i < 2; ++i) store_squares(to + i * lanes / 2, __builtin_convertvector(half[i], Doubles));
}

// Step sizes of the elements of a vector times a weight, rounded once.
PF_HD Doubles scale_steps(const double* h, double weight, Doubles) { return load<Doubles>(h) * weight; }
PF_HD Floats scale_steps(const double* h, double weight, Floats) {
  HalfFloats half[2];
  for (int i = 0; i < 2; ++i) {
    half[i] = __builtin_convertvector(load<Doubles>(h + i * lanes / 2) * weight, HalfFloats);
  }
  return load<Floats>(half);
}

template <class Format>
struct Steps {
  using Stored = typename Format::Stored;
  using Wide = typename Format::Wide;
  using Pack = typename Format::Pack;
  static constexpr int width = Format::width;
  static constexpr double least = sizeof(Wide) == 8 ? 0x1p-1022 : 0x1p-126;

  // Room for a whole vector behind the last element of a unit.
  alignas(64) double h[sum_block + width];
  alignas(64) double squares[max_estimates][sum_block + width];
  Wide coefficient[max_stages][max_step_rows];

  static Pack fetch(const Stored* from, int count) {
    if (count >= width) return Format::load_pack(from);
    Stored some[width] = {};
    __builtin_memcpy(some, from, count * sizeof(Stored));
    return Format::load_pack(some);
  }
  static void put(Stored* to, Pack value, int count) {
    typename Format::Check check = {};
    if (count >= width) return Format::template store_pack<false>(to, value, check);
    Stored some[width];
    Format::template store_pack<false>(some, value, check);
    __builtin_memcpy(to, some, count * sizeof(Stored));
  }

  // `several` vectors from element `first` on, `at` elements into the unit; `count` elements are there.
  template <int rows, int several, bool short_rows>
  PF_HD void vectors(const StepJob& job, int64_t first, int at, int count) {
    const StepRows& tableau = job.tableau;
    const int64_t here = first + at;
    Pack before[several], sum[rows][several] = {};
    for (int i = 0; i < several; ++i) {
      before[i] = fetch(reinterpret_cast<const Stored*>(job.x) + here + i * width, count - i * width);
      sum[0][i] = before[i];
    }
    for (int s = 0; s < tableau.stages; ++s) {
      const Stored* stage = reinterpret_cast<const Stored*>(job.stage[s]) + here;
      if (tableau.used[s] == 0) continue;
      Pack k[several];
      for (int i = 0; i < several; ++i) k[i] = fetch(stage + i * width, count - i * width);
      if constexpr (short_rows) {
        const auto each = [&](int r, int i) { return scale_steps(h + at + i * width, tableau.weight[r][s], Pack{}); };
        add_stage(sum, k, each, tableau.used[s]);
      } else {
        add_stage(sum, k, [&](int r, int) { return coefficient[s][r]; }, tableau.used[s]);
      }
    }
    const Pack rtol = Pack{} + Wide(tableau.rtol), atol = Pack{} + Wide(tableau.atol), tiny = Pack{} + Wide(least);
    for (int i = 0; i < several; ++i) {
      const int left = count - i * width;
      Stored* out = reinterpret_cast<Stored*>(job.out) + here + i * width;
      put(out, sum[0][i], left);
      const Pack after = sizeof(Stored) == 2 ? fetch(out, left) : sum[0][i];
      for (int r = 1; r < rows; ++r) {  // numbers known to the compiler, so that sums stay in registers
        if (r <= max_estimates && r <= tableau.estimates) {
          const Pack ratio = scaled_error(sum[r][i], before[i], after, rtol, atol, tiny);
          store_squares(squares[r - 1] + at + i * width, ratio);
        } else if (r < tableau.rows) {
          Stored* q = reinterpret_cast<Stored*>(job.dense[r - 1 - tableau.estimates]);
          put(q + here + i * width, sum[r][i], left);
        }
      }
    }
  }

  template <bool short_rows>
  __attribute__((noinline)) void last_vectors(const StepJob& job, int64_t first, int at, int count) {
    vectors<max_step_rows, 1, short_rows>(job, first, at, count);
  }

  template <int rows, bool short_rows>
  void elements(const StepJob& job, int64_t first, int count) {
    constexpr int several = rows <= 2 && vector_bytes == 64 ? 4 : 2;
    int at = 0;
    for (; at + several * width <= count; at += several * width) {
      vectors<rows, several, short_rows>(job, first, at, several * width);
    }
    for (; at < count; at += width) last_vectors<short_rows>(job, first, at, count - at);
  }

  template <int rows>
  void unit_of_rows(const StepJob& job, int64_t unit) {
    const int64_t first = unit * job.rows_in_unit(), size = job.row_size;
    int64_t count = job.rows - first;
    if (count > job.rows_in_unit()) count = job.rows_in_unit();
    const double* given = job.h + first * job.h_step;
    if (size == 2) {
      for (int64_t r = 0; r < count; ++r) h[2 * r] = h[2 * r + 1] = given[r * job.h_step];
    } else {
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t i = 0; i < size; ++i) h[r * size + i] = given[r * job.h_step];
      }
    }
    elements<rows, true>(job, first * size, int(count * size));
    const int estimates = job.tableau.estimates;
    double* error = job.error + first * estimates;
    for (int e = 0; e < estimates; ++e) {
      sum_rows(squares[e], h, count, int(size));
      for (int64_t r = 0; r < count; ++r) error[r * estimates + e] = error_norm(h[r], size);
    }
  }

  template <int rows>
  void unit_of_block(const StepJob& job, int64_t unit) {
    const StepRows& tableau = job.tableau;
    const int64_t blocks = job.blocks(), row = unit / blocks, at = unit % blocks;
    const double step = job.h[row * job.h_step];
    for (int s = 0; s < tableau.stages; ++s) {
      for (int r = 0; r < tableau.rows; ++r) coefficient[s][r] = step_coefficient<Wide>(step, tableau.weight[r][s]);
    }
    const int count = job.block_size(at);
    elements<rows, false>(job, row * job.row_size + at * sum_block, count);
    for (int e = 0; e < tableau.estimates; ++e) {
      const double sum = block_sum(squares[e], count);
      if (blocks == 1) {
        job.error[row * tableau.estimates + e] = error_norm(sum, job.row_size);
      } else {
        job.sums[e * job.units() + unit] = sum;
      }
    }
  }

  template <int rows>
  void run(const StepJob& job, int64_t first, int64_t last) {
    const bool short_rows = job.short_rows();
    for (int64_t unit = first; unit < last; ++unit) {
      short_rows ? unit_of_rows<rows>(job, unit) : unit_of_block<rows>(job, unit);
    }
  }
};

template <class Format>
void run_format(const StepJob& job, int64_t first, int64_t last) {
  Steps<Format> steps;
  // One estimate, or none, and no dense output are the common cases, in which more vectors fit into the registers.
  switch (job.tableau.rows) {
    case 1:
      return steps.template run<1>(job, first, last);
    case 2:
      return steps.template run<2>(job, first, last);
    default:
      return steps.template run<max_step_rows>(job, first, last);
  }
}

}  // namespace

void step_units(const StepJob& job, int64_t first, int64_t last) {
  switch (job.dtype) {
    case Dtype::float32:
      return run_format<Float32>(job, first, last);
    case Dtype::float64:
      return run_format<Float64>(job, first, last);
    case Dtype::bfloat16:
      return run_format<Brain>(job, first, last);
    default:
      return run_format<Float16>(job, first, last);
  }
}

}  // namespace pushforward::PF_ISA
