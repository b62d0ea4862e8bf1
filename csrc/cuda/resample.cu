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

// ---- residual resampling and killing: certain copies, and the weights of the draws for the rest ----------------------

// floor(M w / total) copies, and the remainder.
struct WholeCopies {
  int64_t count;
  const int64_t *total, *shift;

  PF_HD void make(const Items& at, const int64_t (&w)[tile_items], int64_t (&copies)[tile_items],
                  int64_t (&left)[tile_items], bool shifted) const {
    const Division division(count, scalar(total + at.row));
    const int64_t bits = shifted ? scalar(shift + at.row) : 0;
#pragma unroll
    for (int i = 0; i < tile_items; ++i) {
      copies[i] = division.copies(w[i], left[i]);
      left[i] >>= bits;
    }
  }
  PF_HD int64_t shift_of(int64_t row, int64_t draws) const { return remainder_shift(draws, scalar(total + row)); }
};

// Itself, by chance; and the weight as it is.
struct Survivors {
  NoiseKey noise;
  int64_t particles;

  PF_HD void make(const Items& at, const int64_t (&w)[tile_items], int64_t (&copies)[tile_items],
                  int64_t (&left)[tile_items], bool) const {
    const int bits = weight_bits(particles);
#pragma unroll
    for (int i = 0; i < tile_items; i += 2) {  // two words each
      const Words<uint32_t> words = words_at(noise, at.row, (survival_word(particles) + 2 * (at.first + i)) / 4);
      copies[i] = i < at.count ? survives(w[i], words.w[0], words.w[1], bits) : 0;
      copies[i + 1] = i + 1 < at.count ? survives(w[i + 1], words.w[2], words.w[3], bits) : 0;
      left[i] = w[i];
      left[i + 1] = w[i + 1];
    }
  }
  PF_HD int64_t shift_of(int64_t, int64_t) const { return 0; }
};

template <class T, class Certain>
struct Copies {
  static constexpr int channels = 1;
  using Kept = Nothing;

  Particles<T> particles;
  Certain certain;

  PF_HD void numbers(const Items& at, Kept&, int64_t (&to)[channels][tile_items]) const {
    double mass[tile_items];
    int64_t w[tile_items], left[tile_items];
    particles.read(at, mass);
#pragma unroll
    for (int i = 0; i < tile_items; ++i) w[i] = to_fixed<OneDouble>(mass[i], particles.scale);
    certain.make(at, w, to[0], left, false);
  }
};

template <class Certain>
struct CopiesOfRow {
  static constexpr int channels = 1;

  int64_t count;
  Certain certain;
  int64_t *draws, *shift;

  PF_HD void operator()(int64_t row, const int64_t (&sums)[channels]) const {
    draws[row] = count - sums[0];
    shift[row] = certain.shift_of(row, count - sums[0]);
  }
};

template <class T, class Certain>
struct Remainders {
  static constexpr int channels = 1;
  struct Kept {
    double mass[tile_items];
    int64_t copies[tile_items];
  };

  Particles<T> particles;
  Certain certain;
  Rows<int64_t> cumulative, children;

  PF_HD void numbers(const Items& at, Kept& kept, int64_t (&to)[channels][tile_items]) const {
    int64_t w[tile_items];
    particles.read(at, kept.mass);
#pragma unroll
    for (int i = 0; i < tile_items; ++i) w[i] = to_fixed<OneDouble>(kept.mass[i], particles.scale);
    certain.make(at, w, kept.copies, to[0], true);
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

// ---- SSP: steps, and back from what happens to who waits -------------------------------------------------------------

// Whether the one that waits gets its child, from the first change that is known; -1: from none. Joined from the last
// one on backwards.
struct Earlier {
  PF_HD static int64_t join(int64_t later, int64_t earlier) { return earlier >= 0 ? earlier : later; }
};

using BlockGains = BlockNumbers<int64_t, Earlier>;

PF_HD int mirrored(int thread) { return tile_threads - 1 - thread; }

// The steps of a thread's particles.
struct SerialSteps {
  Rows<int64_t> cumulative;
  int64_t count;
  const int64_t* total;
  NoiseKey noise;

  // Children for certain, and what each step tells about who waited before it: as Earlier has it.
  PF_HD void make(const Items& at, int64_t (&children)[tile_items], int64_t (&gains)[tile_items]) const {
    int64_t sums[tile_items], before, waiting;
    cumulative.read(at, sums);
    const int64_t all = scalar(total + at.row);
    const Division division(count, all);
    division.copies(at.count > 0 && at.first > 0 ? scalar(cumulative.row(at.row) + at.first - 1) : 0, before);
#pragma unroll
    for (int i = 0; i < tile_items; i += 2) {  // two words each
      const Words<uint32_t> words = words_at(noise, at.row, (at.first + i) / 2);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        children[i + j] = division.copies(sums[i + j], waiting);
        const SerialStep step(before, waiting, all, words.w[2 * j], words.w[2 * j + 1]);
        gains[i + j] = step.changes && i + j < at.count ? int64_t(step.child) : -1;
        before = waiting;
      }
    }
  }
};

// The first change of a tile.
struct TileGains {
  static constexpr int threads = tile_threads, phases = 3;
  using Shared = BlockGains;
  using Local = Nothing;

  Tiles tiles;
  SerialSteps steps;
  int64_t* to;

  template <int phase>
  PF_HD void run(Place place, Shared& shared, Local&) const {
    if constexpr (phase == 0) {
      int64_t children[tile_items], gains[tile_items], first = -1;
      steps.make(tiles.at(place), children, gains);
#pragma unroll
      for (int i = tile_items - 1; i >= 0; --i) first = Earlier::join(first, gains[i]);
      shared.put(mirrored(place.thread), first);
    } else if constexpr (phase == 1) {
      shared.join_groups(place.thread);
    } else {
      if (place.thread == 0) to[place.block] = shared.all();
    }
  }
};

// A block for each row: from the first change of each tile to the first one after it, of which there may be none.
struct RowGains {
  static constexpr int threads = tile_threads, phases = 3;
  using Shared = BlockGains;
  using Local = Nothing;

  int64_t in_row;
  int64_t* gains;

  template <int phase>
  PF_HD void run(Place place, Shared& shared, Local&) const {
    const int64_t several = (in_row + threads - 1) / threads, first = place.thread * several;
    const int64_t last = first + several < in_row ? first + several : in_row;  // none, if last < first
    int64_t* const of_row = gains + place.block * in_row;
    if constexpr (phase == 0) {
      int64_t known = -1;
      for (int64_t i = last - 1; i >= first; --i) known = Earlier::join(known, of_row[i]);
      shared.put(mirrored(place.thread), known);
    } else if constexpr (phase == 1) {
      shared.join_groups(place.thread);
    } else {
      int64_t known = shared.before(mirrored(place.thread), -1);
      for (int64_t i = last - 1; i >= first; --i) {
        const int64_t own = of_row[i];
        of_row[i] = known;
        known = Earlier::join(known, own);
      }
    }
  }
};

// Cumulative numbers of children.
struct SerialChildren {
  static constexpr int threads = tile_threads, phases = 3;
  using Shared = BlockGains;
  struct Local {
    int64_t children[tile_items], gains[tile_items];
  };

  Tiles tiles;
  SerialSteps steps;
  const int64_t* after;  // what RowGains made of the tiles
  Rows<int64_t> to;

  template <int phase>
  PF_HD void run(Place place, Shared& shared, Local& local) const {
    if constexpr (phase == 0) {
      int64_t first = -1;
      steps.make(tiles.at(place), local.children, local.gains);
#pragma unroll
      for (int i = tile_items - 1; i >= 0; --i) first = Earlier::join(first, local.gains[i]);
      shared.put(mirrored(place.thread), first);
    } else if constexpr (phase == 1) {
      shared.join_groups(place.thread);
    } else {
      int64_t known = Earlier::join(scalar(after + place.block), shared.before(mirrored(place.thread), -1));
#pragma unroll
      for (int i = tile_items - 1; i >= 0; --i) {
        local.children[i] += int64_t(known > 0);
        known = Earlier::join(known, local.gains[i]);
      }
      to.write(tiles.at(place), local.children);
    }
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
        return copy_and_draw(WholeCopies{job.count, job.total, scratch.shift});
      case Scheme::killing:
        return copy_and_draw(Survivors{job.noise, job.particles});
      case Scheme::ssp:
        return step();
    }
  }

  // Sums of the weights; those schemes that do not begin with certain copies need them cumulative.
  void weigh() const {
    launch(tiles.total(), TileMaximum<T>{tiles, particles.log_weights, scratch.tile_maximum}, job.stream);
    launch(job.rows, RowMaximum{tiles.in_row, scratch.tile_maximum, job.maximum}, job.stream);
    const Weights<T> weights{particles, cumulative};
    sum_rows(tiles, weights, {scratch.tile_sums, scratch.tile_squares}, WeightsOfRow{job, scratch}, job.stream);
    if (!job.copied()) scan_rows(tiles, weights, scratch.tile_sums, job.stream);
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

  void step() const {
    const SerialSteps steps{cumulative, job.count, job.total, job.noise};
    launch(tiles.total(), TileGains{tiles, steps, scratch.tile_sums}, job.stream);
    launch(job.rows, RowGains{tiles.in_row, scratch.tile_sums}, job.stream);
    launch(tiles.total(), SerialChildren{tiles, steps, scratch.tile_sums, children}, job.stream);
    launch(places.total(), Ancestors<Places>{places, Places(), children, ancestors}, job.stream);
  }

  template <class Certain>
  void copy_and_draw(const Certain& certain) const {
    const CopiesOfRow<Certain> of_row{job.count, certain, scratch.draws, scratch.shift};
    sum_rows(tiles, Copies<T, Certain>{particles, certain}, {scratch.tile_sums}, of_row, job.stream);
    const Remainders<T, Certain> remainders{particles, certain, cumulative, children};
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
