// Tiles of four rows by 64 columns. A lane belongs to one pair from the first feature to the last, and sums over pairs
// run down the columns of a tile before they run across it: so no result depends on how wide a vector is.
#include "../discrepancy.hpp"

#include "../../core/discrepancy.hpp"
#include "../../core/exponential32.hpp"
#include "../doubles.hpp"

namespace pushforward::PF_ISA {
namespace {

constexpr int group = 4;             // rows at a time
constexpr int64_t feature_block = 256;  // features that are summed by themselves, for a smaller rounding error

template <class Real>
struct Math;

template <>
struct Math<float> {
  using Vector = Floats;
  PF_HD static Vector exponential(Vector x) { return exponential32<ManyLanes>(x); }
  PF_HD static Vector root(Vector x) { return ManyLanes::sqrt(x); }
};

template <>
struct Math<double> {
  using Vector = Doubles;
  PF_HD static Vector exponential(Vector x) {
    const Vector lowest = Vector{} + -708.0;
    return x != x ? x : ::pushforward::PF_ISA::exponential<ManyDoubles>(Vector(x < lowest ? lowest : x));
  }
  PF_HD static Vector root(Vector x) {
#if defined(__AVX512F__)
    return (Vector)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX__)
    return (Vector)_mm256_sqrt_pd((__m256d)x);
#elif defined(__SSE2__)
    return (Vector)_mm_sqrt_pd((__m128d)x);
#else
    Vector root;
    for (int i = 0; i < lanes / 2; ++i) root[i] = __builtin_sqrt(x[i]);
    return root;
#endif
  }
};

template <class Real>
constexpr int width = vector_bytes / int(sizeof(Real));

// Squared distances of four rows to `vectors` vectors of columns. Differences first: nothing cancels, points far from
// the origin lose nothing, and a point is at distance zero from itself.
template <class Real, int vectors, class Vector>
PF_HD void squared_distances(const Real* const (&row)[group], const Real* columns, int64_t features,
                             Vector (&r2)[group][vectors]) {
  for (int r = 0; r < group; ++r) {
    for (int v = 0; v < vectors; ++v) r2[r][v] = Vector{};
  }
  for (int64_t begin = 0; begin < features; begin += feature_block) {
    const int64_t end = features < begin + feature_block ? features : begin + feature_block;
    Vector sum[group][vectors] = {};
    for (int64_t k = begin; k < end; ++k) {
      Vector y[vectors];
      for (int v = 0; v < vectors; ++v) y[v] = load<Vector>(columns + k * tile_columns + v * width<Real>);
      for (int r = 0; r < group; ++r) {
        const Real x = row[r][k];
        for (int v = 0; v < vectors; ++v) {
          const Vector d = y[v] - x;
          sum[r][v] = sum[r][v] + d * d;
        }
      }
    }
    for (int r = 0; r < group; ++r) {
      for (int v = 0; v < vectors; ++v) r2[r][v] = r2[r][v] + sum[r][v];
    }
  }
}

// Registers for the sums, the columns and a broadcast: 32 of 64 bytes, or 16.
#if defined(__AVX512F__)
constexpr int vectors_at_once = 4;
#else
constexpr int vectors_at_once = 2;
#endif

template <class Real>
PF_HD void rows_of(const Points& x, int64_t i, int64_t last, const Real* (&row)[group]) {
  for (int r = 0; r < group; ++r) {
    row[r] = static_cast<const Real*>(x.rows) + (i + r < last ? i + r : last - 1) * x.stride;
  }
}

// f(row, first column of the vector, squared distances) for the rows [i, i + 4) that are there, and a tile's columns.
template <class Real, class Function>
PF_HD void for_distances(const PairJob& job, const Points& x, int64_t i, int64_t last, const Real* columns,
                         Function&& f) {
  using Vector = typename Math<Real>::Vector;
  const Real* row[group];
  rows_of(x, i, last, row);
  constexpr int step = vectors_at_once * width<Real>;
  for (int c = 0; c < tile_columns; c += step) {
    Vector r2[group][vectors_at_once];
    squared_distances<Real, vectors_at_once>(row, columns + c, job.features, r2);
    for (int r = 0; r < group; ++r) {
      if (i + r >= last) break;
      for (int v = 0; v < vectors_at_once; ++v) f(r, c + v * width<Real>, r2[r][v]);
    }
  }
}

template <class Real>
struct Rates {
  Real of[max_bandwidths];
  int count;

  explicit Rates(const PairJob& job) : count(job.bandwidths) {
    for (int h = 0; h < count; ++h) of[h] = Real(job.rates[h]);
  }
};

// Clear the lane of a vector that holds column `own`, if one does.
template <class Real, class Vector>
PF_HD Vector without(Vector values, int64_t first_column, int64_t own) {
  for (int lane = 0; lane < width<Real>; ++lane) {
    if (first_column + lane == own) values[lane] = 0;
  }
  return values;
}

template <class Real, class Kernel>
double sum_tiles(const PairJob& job, const Points& x, const Points& y, int64_t first, int64_t last,
                 int64_t first_block, int64_t last_block, bool same) {
  using Vector = typename Math<Real>::Vector;
  const Rates<Real> rates(job);
  double total = 0;
  for (int64_t block = first_block; block < last_block; ++block) {
    const int64_t start = block * tile_columns;
    const Real* columns = static_cast<const Real*>(y.columns) + start * job.features;
    const bool diagonal = same && start < last && first < start + tile_columns;
    Real down[tile_columns] = {};
    for (int64_t i = first; i < last; i += group) {
      for_distances<Real>(job, x, i, last, columns, [&](int r, int c, Vector r2) __attribute__((always_inline)) {
        Vector k = Kernel::template kernel<Math<Real>>(r2, rates.of[0]);
        for (int h = 1; h < rates.count; ++h) k = k + Kernel::template kernel<Math<Real>>(r2, rates.of[h]);
        if (diagonal) k = without<Real>(k, start + c, i + r);
        store(down + c, load<Vector>(down + c) + k);
      });
    }
    const int64_t there = y.count - start < tile_columns ? y.count - start : tile_columns;
    double sum = 0;
    for (int64_t c = 0; c < there; ++c) sum += double(down[c]);
    total += same && !diagonal ? 2 * sum : sum;
  }
  return total;
}

template <class Real, class Kernel>
void add_gradient(const PairJob& job, const Points& x, const Points& y, int64_t first, int64_t last, bool same,
                  double coefficient, double* total) {
  using Vector = typename Math<Real>::Vector;
  constexpr int vectors = 2;
  const Rates<Real> rates(job);
  const int64_t blocks = (y.count + tile_columns - 1) / tile_columns;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t start = block * tile_columns;
    const int64_t there = y.count - start < tile_columns ? y.count - start : tile_columns;
    const Real* columns = static_cast<const Real*>(y.columns) + start * job.features;
    for (int64_t i = first; i < last; i += group) {
      Real slope[group][tile_columns] = {};
      for_distances<Real>(job, x, i, last, columns, [&](int r, int c, Vector r2) __attribute__((always_inline)) {
        Vector g = Kernel::template slope<Math<Real>>(r2, rates.of[0]);
        for (int h = 1; h < rates.count; ++h) g = g + Kernel::template slope<Math<Real>>(r2, rates.of[h]);
        if (same) g = without<Real>(g, start + c, i + r);
        store(&slope[r][c], g);
      });
      const Real* row[group];
      rows_of(x, i, last, row);
      for (int64_t k = 0; k < job.features; k += vectors * width<Real>) {
        const int here = k + width<Real> < job.features ? vectors : 1;
        Vector sum[group][vectors] = {}, at[group][vectors] = {};
        for (int r = 0; r < group; ++r) {
          for (int v = 0; v < here; ++v) at[r][v] = load<Vector>(row[r] + k + v * width<Real>);
        }
        for (int64_t j = 0; j < there; ++j) {
          const Real* other = static_cast<const Real*>(y.rows) + (start + j) * y.stride + k;
          Vector z[vectors] = {};
          for (int v = 0; v < here; ++v) z[v] = load<Vector>(other + v * width<Real>);
          for (int r = 0; r < group; ++r) {
            for (int v = 0; v < vectors; ++v) sum[r][v] = sum[r][v] + (at[r][v] - z[v]) * slope[r][j];
          }
        }
        for (int r = 0; r < group && i + r < last; ++r) {
          double* of_row = total + (i + r - first) * job.features;
          for (int v = 0; v < here; ++v) {
            for (int lane = 0; lane < width<Real>; ++lane) {
              const int64_t feature = k + v * width<Real> + lane;
              if (feature < job.features) of_row[feature] += coefficient * double(sum[r][v][lane]);
            }
          }
        }
      }
    }
  }
}

template <class Kernel, class... Arguments>
double sum_of(const PairJob& job, Arguments... arguments) {
  return job.is_double ? sum_tiles<double, Kernel>(job, arguments...) : sum_tiles<float, Kernel>(job, arguments...);
}

template <class Kernel, class... Arguments>
void gradient_of(const PairJob& job, Arguments... arguments) {
  job.is_double ? add_gradient<double, Kernel>(job, arguments...) : add_gradient<float, Kernel>(job, arguments...);
}

}  // namespace

double pair_sum(const PairJob& job, const Points& x, const Points& y, int64_t first, int64_t last, int64_t first_block,
                int64_t last_block, bool same) {
  switch (job.kernel) {
    case PairKernel::gaussian:
      return sum_of<Gaussian>(job, x, y, first, last, first_block, last_block, same);
    case PairKernel::rational_quadratic:
      return sum_of<RationalQuadratic>(job, x, y, first, last, first_block, last_block, same);
    default:
      return sum_of<Distance>(job, x, y, first, last, first_block, last_block, same);
  }
}

void pair_gradient(const PairJob& job, const Points& x, const Points& y, int64_t first, int64_t last, bool same,
                   double coefficient, double* total) {
  switch (job.kernel) {
    case PairKernel::gaussian:
      return gradient_of<Gaussian>(job, x, y, first, last, same, coefficient, total);
    case PairKernel::rational_quadratic:
      return gradient_of<RationalQuadratic>(job, x, y, first, last, same, coefficient, total);
    default:
      return gradient_of<Distance>(job, x, y, first, last, same, coefficient, total);
  }
}

void exponentials(const float* x, float* out, int64_t count) {
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(out + i, exponential32<ManyLanes>(load<Floats>(x + i)));
  for (; i < count; ++i) out[i] = exponential32<OneLane>(x[i]);
}

}  // namespace pushforward::PF_ISA
