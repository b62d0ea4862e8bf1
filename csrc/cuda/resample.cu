// `resample` on a GPU: passes over tiles of the weights, and of the spacings of sorted uniform numbers. Nothing is read
// back in between: what one pass must know of another lies in memory. kernels/resample.py is the definition.
#include "resample.hpp"

#include "ancestors.hpp"

namespace pushforward::PF_ISA {
namespace {

static_assert(tile_size == gpu_resample_tile);

// ---- the largest log-weight ------------------------------------------------------------------------------------------

// The larger one, or NaN if one of them is.
struct Larger {
  PF_HD static double join(double a, double b) { return b > a || b != b ? b : a; }
};

// A phase of a block that joins what each thread brings.
template <int phase>
PF_HD void join_block(int thread, BlockNumbers<double, Larger>& shared, double own, double* to) {
  if constexpr (phase == 0) {
    shared.put(thread, own);
  } else if constexpr (phase == 1) {
    shared.join_groups(thread);
  } else {
    if (thread == 0) *to = shared.all();
  }
}

// Of a tile.
template <class T>
struct TileMaximum {
  static constexpr int threads = tile_threads, phases = 3;
  using Shared = BlockNumbers<double, Larger>;
  using Local = Nothing;

  Tiles tiles;
  Rows<const T> log_weights;
  double* to;

  template <int phase>
  PF_HD void run(Place place, Shared& shared, Local&) const {
    double most = -double(INFINITY);
    if constexpr (phase == 0) {
      const Items at = tiles.at(place);
      T x[tile_items];
      log_weights.read(at, x);
#pragma unroll
      for (int i = 0; i < tile_items; ++i) {
        if (i < at.count) most = Larger::join(most, double(x[i]));
      }
    }
    join_block<phase>(place.thread, shared, most, to + place.block);
  }
};

// Of a row, from its tiles.
struct RowMaximum {
  static constexpr int threads = tile_threads, phases = 3;
  using Shared = BlockNumbers<double, Larger>;
  using Local = Nothing;

  int64_t in_row;
  const double* tile_maximum;
  double* to;

  template <int phase>
  PF_HD void run(Place place, Shared& shared, Local&) const {
    double most = -double(INFINITY);
    if constexpr (phase == 0) {
      const double* const from = tile_maximum + place.block * in_row;
      for (int64_t i = place.thread; i < in_row; i += threads) most = Larger::join(most, from[i]);
    }
    join_block<phase>(place.thread, shared, most, to + place.block);
  }
};

// ---- weights ---------------------------------------------------------------------------------------------------------

// exp(l - maximum), made anew in each pass, which costs less than memory. An invalid row becomes one of equal weights,
// so that what follows has nothing to fear from it.
template <class T>
struct Particles {
  Rows<const T> log_weights;
  Rows<T> weights;
  const double* maximum;
  const int64_t* total;
  double scale;

  explicit Particles(const GpuResample& job)
      : log_weights(static_cast<const T*>(job.log_weights), job.particles),
        weights(static_cast<T*>(job.weights), job.particles),
        maximum(job.maximum),
        total(job.total),
        scale(power_of_two(weight_bits(job.particles > job.count ? job.particles : job.count))) {}

  PF_HD void read(const Items& at, double (&mass)[tile_items]) const {
    T x[tile_items];
    log_weights.read(at, x);
    const double most = scalar(maximum + at.row);
#pragma unroll
    for (int i = 0; i < tile_items; ++i) {
      const double present = is_finite(most) ? exponential<OneDouble>(double(x[i]) - most) : 1.0;
      mass[i] = i < at.count ? present : 0.0;
    }
  }
  PF_HD void normalise(const Items& at, const double (&mass)[tile_items]) const {
    const double factor = scale / double(scalar(total + at.row));
    T x[tile_items];
#pragma unroll
    for (int i = 0; i < tile_items; ++i) x[i] = T(mass[i] * factor);
    weights.write(at, x);
  }
};

template <class T>
struct Weights {
  static constexpr int channels = 2;
  struct Kept {
    double mass[tile_items];
  };

  Particles<T> particles;
  Rows<int64_t> cumulative;

  PF_HD void numbers(const Items& at, Kept& kept, int64_t (&to)[channels][tile_items]) const {
    particles.read(at, kept.mass);
#pragma unroll
    for (int i = 0; i < tile_items; ++i) {
      to[0][i] = to_fixed<OneDouble>(kept.mass[i], particles.scale);
      to[1][i] = to_fixed<OneDouble>(kept.mass[i] * kept.mass[i], particles.scale);
    }
  }
  PF_HD void finish(const Items& at, const Kept& kept, const int64_t (&sums)[tile_items]) const {
    cumulative.write(at, sums);
    particles.normalise(at, kept.mass);
  }
};

// The sums of a row, and what schemes make of them.
struct WeightsOfRow {
  static constexpr int channels = 2;

  GpuResample job;
  GpuResampleScratch scratch;

  PF_HD void operator()(int64_t row, const int64_t (&sums)[channels]) const {
    const int64_t total = sums[0];
    job.total[row] = total;
    job.squares[row] = sums[1];
    scratch.draws[row] = job.count;
    scratch.pool[row] = total;
    const Strata strata(total, job.count);
    scratch.quotient[row] = strata.quotient;
    scratch.remainder[row] = strata.remainder;
    if (job.scheme != Scheme::systematic) return;
    const Words<uint32_t> words = words_at(job.noise, row, 0);
    scratch.offset[row] = uniform_below(words.w[0], words.w[1], total);
  }
};

// ---- residual resampling: certain copies, and what they leave --------------------------------------------------------

template <class T>
struct Copies {
  static constexpr int channels = 1;
  using Kept = Nothing;

  Particles<T> particles;
  int64_t count;

  PF_HD void numbers(const Items& at, Kept&, int64_t (&to)[channels][tile_items]) const {
    double mass[tile_items];
    particles.read(at, mass);
    const Division division(count, scalar(particles.total + at.row));
#pragma unroll
    for (int i = 0; i < tile_items; ++i) {
      int64_t left;
      to[0][i] = division.copies(to_fixed<OneDouble>(mass[i], particles.scale), left);
    }
  }
};

struct CopiesOfRow {
  static constexpr int channels = 1;

  int64_t count;
  const int64_t* total;
  int64_t *draws, *shift;

  PF_HD void operator()(int64_t row, const int64_t (&sums)[channels]) const {
    draws[row] = count - sums[0];
    shift[row] = remainder_shift(count - sums[0], scalar(total + row));
  }
};

template <class T>
struct Remainders {
  static constexpr int channels = 1;
  struct Kept {
    double mass[tile_items];
    int64_t copies[tile_items];
  };

  Particles<T> particles;
  int64_t count;
  const int64_t* shift;
  Rows<int64_t> cumulative, children;

  PF_HD void numbers(const Items& at, Kept& kept, int64_t (&to)[channels][tile_items]) const {
    particles.read(at, kept.mass);
    const Division division(count, scalar(particles.total + at.row));
    const int64_t bits = scalar(shift + at.row);
#pragma unroll
    for (int i = 0; i < tile_items; ++i) {
      int64_t left;
      kept.copies[i] = division.copies(to_fixed<OneDouble>(kept.mass[i], particles.scale), left);
      to[0][i] = left >> bits;
    }
  }
  PF_HD void finish(const Items& at, const Kept& kept, const int64_t (&sums)[tile_items]) const {
    cumulative.write(at, sums);
    children.write(at, kept.copies);
    particles.normalise(at, kept.mass);
  }
};

struct SumOfRow {
  static constexpr int channels = 1;

  int64_t* to;

  PF_HD void operator()(int64_t row, const int64_t (&sums)[channels]) const { to[row] = sums[0]; }
};

struct Children {
  static constexpr int channels = 1;
  using Kept = Nothing;

  Rows<int64_t> children, cumulative;

  PF_HD void numbers(const Items& at, Kept&, int64_t (&to)[channels][tile_items]) const {
    children.read(at, to[0]);
  }
  PF_HD void finish(const Items& at, const Kept&, const int64_t (&sums)[tile_items]) const {
    cumulative.write(at, sums);
  }
};

// ---- all passes ------------------------------------------------------------------------------------------------------

template <class T>
struct Passes {
  const GpuResample& job;
  const GpuResampleScratch scratch;
  const Tiles tiles, places;
  const Particles<T> particles;
  const Rows<int64_t> cumulative, children, ancestors;

  explicit Passes(const GpuResample& job)
      : job(job),
        scratch(job),
        tiles(job.rows, job.particles),
        places(job.rows, job.count),
        particles(job),
        cumulative(scratch.cumulative, job.particles),
        children(scratch.children, job.particles),
        ancestors(job.ancestors, job.count) {}

  void run() const {
    weigh();
    switch (job.scheme) {
      case Scheme::systematic:
        return fill(SystematicThresholds{job.count, scratch.quotient, scratch.remainder, scratch.offset});
      case Scheme::stratified:
        return fill(StratifiedThresholds{job.count, scratch.quotient, scratch.remainder, job.total, job.noise});
      case Scheme::multinomial:
        return draw<false>(ancestors);
      case Scheme::residual:
        return copy_and_draw();
    }
  }

  // Sums of the weights; all schemes but the residual one need them cumulative.
  void weigh() const {
    launch(tiles.total(), TileMaximum<T>{tiles, particles.log_weights, scratch.tile_maximum}, job.stream);
    launch(job.rows, RowMaximum{tiles.in_row, scratch.tile_maximum, job.maximum}, job.stream);
    const Weights<T> weights{particles, cumulative};
    sum_rows(tiles, weights, {scratch.tile_sums, scratch.tile_squares}, WeightsOfRow{job, scratch}, job.stream);
    if (job.scheme != Scheme::residual) scan_rows(tiles, weights, scratch.tile_sums, job.stream);
  }

  template <class Thresholds>
  void fill(const Thresholds& thresholds) const {
    launch(places.total(), Ancestors<Thresholds>{places, thresholds, cumulative, ancestors}, job.stream);
  }

  template <bool counted>
  void draw(const Rows<int64_t>& to) const {
    const double scale = power_of_two(spacing_bits(job.count));
    const Spacings<counted> spacings{job.noise, scale, scratch.draws, scratch.pool, scratch.spacings, cumulative, to};
    const Tiles spaces(job.rows, job.count + 1);
    sum_rows(spaces, spacings, {scratch.tile_spacings}, SumOfRow{scratch.spacings}, job.stream);
    scan_rows(spaces, spacings, scratch.tile_spacings, job.stream);
  }

  void copy_and_draw() const {
    const CopiesOfRow of_row{job.count, job.total, scratch.draws, scratch.shift};
    sum_rows(tiles, Copies<T>{particles, job.count}, {scratch.tile_sums}, of_row, job.stream);
    const Remainders<T> remainders{particles, job.count, scratch.shift, cumulative, children};
    sum_rows(tiles, remainders, {scratch.tile_sums}, SumOfRow{scratch.pool}, job.stream);
    scan_rows(tiles, remainders, scratch.tile_sums, job.stream);
    draw<true>(children);
    const Children counted{children, cumulative};
    sum_rows(tiles, counted, {scratch.tile_sums}, SumOfRow{scratch.pool}, job.stream);
    scan_rows(tiles, counted, scratch.tile_sums, job.stream);
    fill(Places());
  }
};

}  // namespace

void run_resampling(const GpuResample& job) {
  if (job.rows == 0) return;
  job.wide ? Passes<double>(job).run() : Passes<float>(job).run();
}

}  // namespace pushforward::PF_ISA
