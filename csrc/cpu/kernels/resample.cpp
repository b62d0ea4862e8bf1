// Stages of resampling. Compiled once for each instruction set, into a namespace of its own; no standard templates
// here, whose copies the linker would share between the instruction sets.
#include "../resample.hpp"

#include "../../core/resample.hpp"
#include "../doubles.hpp"
#include "../random.hpp"

namespace pushforward::PF_ISA {
namespace {

struct Unit {
  int64_t row, begin, count;

  Unit(int64_t unit, int64_t blocks, int64_t size)
      : row(unit / blocks), begin(unit % blocks * resample_block), count(size - begin) {
    if (count > resample_block) count = resample_block;
  }
};

// The words themselves, and the logarithms of the uniform numbers that they make.
struct RandomWords {
  using Number = uint32_t;
  static constexpr int of_block = 4;

  PF_HD static void make(const Words<Halves>& words, Number* to) {
    store_blocks(reinterpret_cast<float*>(to), (Floats)join(words.w[0]), (Floats)join(words.w[1]),
                 (Floats)join(words.w[2]), (Floats)join(words.w[3]));
  }
};

struct Logarithms {
  using Number = float;
  static constexpr int of_block = 4;

  PF_HD static void make(const Words<Halves>& words, Number* to) {
    store_blocks(to, log_uniform<ManyLanes>(join(words.w[0])), log_uniform<ManyLanes>(join(words.w[1])),
                 log_uniform<ManyLanes>(join(words.w[2])), log_uniform<ManyLanes>(join(words.w[3])));
  }
};

bool is_finite(double x) { return x - x == 0; }

template <class T, class V, class Mask>
double maximum_of(const T* x, int64_t count) {
  constexpr int width = sizeof(V) / sizeof(T);
  const T infinity = T(__builtin_inf());
  V top = V{} - infinity;
  Mask bad = {};
  int64_t i = 0;
  for (; i + width <= count; i += width) {
    const V v = load<V>(x + i);
    top = v > top ? v : top;
    bad |= ~(v < infinity);
  }
  T result = -infinity;
  bool any = false;
  for (int lane = 0; lane < width; ++lane) {
    result = top[lane] > result ? top[lane] : result;
    any |= bad[lane] != 0;
  }
  for (; i < count; ++i) {
    result = x[i] > result ? x[i] : result;
    any |= !(x[i] < infinity);
  }
  return any ? double(__builtin_nan("")) : double(result);
}

// exp(l - maximum) of the unit. Made anew in each pass: that costs less than memory that is touched for the first time.
template <class T>
void exponentials(const T* x, double maximum, int64_t count, double* mass) {
  int64_t i = 0;
  for (; i + double_lanes <= count; i += double_lanes) {
    store(mass + i, exponential<ManyDoubles>(load_doubles(x + i) - maximum));
  }
  for (; i < count; ++i) mass[i] = exponential<OneDouble>(double(x[i]) - maximum);
}

void exponentials(const ResampleJob& job, const Unit& unit, double* mass) {
  const int64_t first = unit.row * job.particles + unit.begin;
  const double maximum = job.maximum[unit.row];
  if (job.wide) {
    exponentials(static_cast<const double*>(job.log_weights) + first, maximum, unit.count, mass);
  } else {
    exponentials(static_cast<const float*>(job.log_weights) + first, maximum, unit.count, mass);
  }
}

// The integer weights of the unit.
void integer_weights(const double* mass, double scale, int64_t count, int64_t* w) {
  int64_t i = 0;
  for (; i + double_lanes <= count; i += double_lanes) {
    store(w + i, to_fixed<ManyDoubles>(load<Doubles>(mass + i), scale));
  }
  for (; i < count; ++i) w[i] = to_fixed<OneDouble>(mass[i], scale);
}

void weigh(const ResampleJob& job, const Unit& unit, int64_t& total, int64_t& squares) {
  double mass[resample_block];
  exponentials(job, unit, mass);
  Longs sum = {}, sum_of_squares = {};
  int64_t i = 0;
  for (; i + double_lanes <= unit.count; i += double_lanes) {
    const Doubles e = load<Doubles>(mass + i);
    sum += to_fixed<ManyDoubles>(e, job.scale);
    sum_of_squares += to_fixed<ManyDoubles>(e * e, job.scale);
  }
  total = squares = 0;
  for (int lane = 0; lane < double_lanes; ++lane) {
    total += sum[lane];
    squares += sum_of_squares[lane];
  }
  for (; i < unit.count; ++i) {
    total += to_fixed<OneDouble>(mass[i], job.scale);
    squares += to_fixed<OneDouble>(mass[i] * mass[i], job.scale);
  }
}

template <class T>
void normalise(const double* mass, double factor, int64_t count, T* weights) {
  int64_t i = 0;
  for (; i + double_lanes <= count; i += double_lanes) store_doubles(weights + i, load<Doubles>(mass + i) * factor);
  for (; i < count; ++i) weights[i] = T(mass[i] * factor);
}

// Spacings of elements [begin, begin + count) of a row.
void make_spacings(const ResampleJob& job, int64_t row, int64_t begin, int64_t count, int64_t* to) {
  float logs[resample_block];
  fill_row<Logarithms>(job.noise, row, begin, count, logs);
  for (int64_t i = 0; i < count; ++i) to[i] = to_fixed<OneDouble>(double(-logs[i]), job.spacing_scale);
}

void draw_strata(const ResampleJob& job, const Unit& unit) {
  uint32_t words[2 * resample_block];
  fill_row<RandomWords>(job.noise, unit.row, 2 * unit.begin, 2 * unit.count, words);
  const int64_t total = job.total[unit.row];
  const Strata strata(total, job.count);
  int64_t* to = job.thresholds + unit.row * job.threshold_step + unit.begin;
  for (int64_t i = 0; i < unit.count; ++i) {
    to[i] = strata.threshold(unit.begin + i, uniform_below(words[2 * i], words[2 * i + 1], total));
  }
}

void draw_order(const ResampleJob& job, const Unit& unit) {
  int64_t buffer[resample_block];
  make_spacings(job, unit.row, unit.begin, unit.count, buffer);
  const int64_t total = job.pool[unit.row];
  const double ratio = double(total) / double(job.spacings[unit.row]);
  int64_t sum = job.block_spacings[unit.row * job.draw_blocks + unit.begin / resample_block];
  int64_t* to = job.thresholds + unit.row * job.threshold_step + unit.begin;
  for (int64_t i = 0; i < unit.count; ++i) {
    sum += buffer[i];
    to[i] = order_threshold(sum, ratio, total);
  }
}

int64_t first_not_below(const int64_t* thresholds, int64_t count, int64_t value) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (thresholds[middle] < value) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// children[i]: how many thresholds lie below cumulative[i], all those before `begin` and none from `end` on.
void count_below(const int64_t* cumulative, int64_t count, const int64_t* thresholds, int64_t begin, int64_t end,
                 int64_t* children) {
  int64_t i = 0, j = begin;
  while (j < end) {  // without other branches, which nobody could predict; the last particle is above the last threshold
    children[i] = j;
    const int64_t below = thresholds[j] < cumulative[i];
    j += below;
    i += 1 - below;
  }
  for (; i < count; ++i) children[i] = end;
}

// The same for systematic resampling, ceil((cumulative M - offset) / total), estimated in floating point; where that is
// too close to an integer to tell, exactly.
void count_strata(const int64_t* cumulative, int64_t count, int64_t total, int64_t ancestors, int64_t offset,
                  int64_t* children) {
  const double ratio = double(ancestors) / double(total), shift = double(offset) / double(total);
  const double doubt = double(ancestors) * 0x1p-50 + 0x1p-50;  // six roundings of numbers below M
  const double round = 0x1.8p52;
  int64_t unsure = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double x = double(cumulative[i]) * ratio - shift;
    const double shifted = x + round, nearest = shifted - round, gap = x - nearest;
    children[i] = OneLane::bits<int64_t>(shifted) - OneLane::bits<int64_t>(round) + (gap > 0);
    unsure |= (gap < doubt) & (gap > -doubt);
  }
  if (!unsure) return;
  for (int64_t i = 0; i < count; ++i) {
    const double x = double(cumulative[i]) * ratio - shift;
    const double gap = x - ((x + round) - round);
    if (gap < doubt && gap > -doubt) {
      const __int128 numerator = __int128(cumulative[i]) * ancestors - offset + (total - 1);
      children[i] = int64_t(numerator / total);
    }
  }
}

// Write particle i into places [children[i - 1], children[i]): eight at a time, as what is too much is overwritten.
void write_ancestors(const int64_t* children, int64_t count, int64_t begin, int64_t place, int64_t* ancestors) {
  typedef int64_t Eight __attribute__((vector_size(64)));
  const int64_t end = children[count - 1];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t next = children[i], safe = end - 8;
    if (place <= safe) {
      const Eight particle = Eight{} + (begin + i);
      store(ancestors + place, particle);
      for (place += 8; place < next && place <= safe; place += 8) store(ancestors + place, particle);
    }
    for (; place < next; ++place) ancestors[place] = begin + i;
    place = next;
  }
}

// body(i, copies, left) for each particle of the unit: copies that it gets for certain, and its weight in the draws that
// make up for what is missing.
template <class Body>
void each_copied(const ResampleJob& job, const Unit& unit, const int64_t* w, const Body& body) {
  if (job.scheme == Scheme::killing) {
    uint32_t words[2 * resample_block];
    fill_row<RandomWords>(job.noise, unit.row, survival_word(job.particles) + 2 * unit.begin, 2 * unit.count, words);
    const int bits = weight_bits(job.particles);
    for (int64_t i = 0; i < unit.count; ++i) body(i, survives(w[i], words[2 * i], words[2 * i + 1], bits), w[i]);
    return;
  }
  const Division division(job.count, job.total[unit.row]);
  const int64_t shift = job.shift[unit.row];
  for (int64_t i = 0; i < unit.count; ++i) {
    int64_t left;
    const int64_t copies = division.copies(w[i], left);
    body(i, copies, left >> shift);
  }
}

// SSP resampling: whether the particle that waits when the unit begins gets its child; -1 if it waits to the end. Most
// often the first few particles tell.
int64_t first_change(const ResampleJob& job, const Unit& unit, int64_t start) {
  constexpr int64_t few = 64;
  double mass[few];
  int64_t w[few];
  uint32_t words[2 * few];
  const int64_t total = job.total[unit.row];
  const Division division(job.count, total);
  int64_t before;
  division.copies(start, before);
  Unit part = unit;
  for (; part.begin < unit.begin + unit.count; part.begin += few) {
    const int64_t rest = unit.begin + unit.count - part.begin;
    part.count = rest < few ? rest : few;
    exponentials(job, part, mass);
    integer_weights(mass, job.scale, part.count, w);
    fill_row<RandomWords>(job.noise, part.row, 2 * part.begin, 2 * part.count, words);
    for (int64_t i = 0; i < part.count; ++i) {
      int64_t waiting;
      division.copies(start += w[i], waiting);
      const SerialStep step(before, waiting, total, words[2 * i], words[2 * i + 1]);
      if (step.changes) return step.child;
      before = waiting;
    }
  }
  return -1;
}

// Cumulative numbers of children of the unit's particles; returns those of all before. Out of line: inlined into
// spread it slows the other schemes down, residual resampling by a fifth.
__attribute__((noinline)) int64_t count_serial(const ResampleJob& job, const Unit& unit, const int64_t* cumulative,
                                               int64_t start, int64_t gains, int64_t* children) {
  uint32_t words[2 * resample_block];
  int64_t waiting[resample_block + 1];  // before each step, and after the last one
  fill_row<RandomWords>(job.noise, unit.row, 2 * unit.begin, 2 * unit.count, words);
  const int64_t total = job.total[unit.row];
  const Division division(job.count, total);
  const int64_t place = division.copies(start, waiting[0]);
  for (int64_t i = 0; i < unit.count; ++i) children[i] = division.copies(cumulative[i], waiting[i + 1]);
  for (int64_t i = unit.count - 1; i >= 0; --i) {
    children[i] += gains;
    const SerialStep step(waiting[i], waiting[i + 1], total, words[2 * i], words[2 * i + 1]);
    gains = step.changes ? int64_t(step.child) : gains;
  }
  return place + gains;
}

void spread(const ResampleJob& job, const Unit& unit) {
  double mass[resample_block];
  int64_t cumulative[resample_block], children[resample_block];
  const int64_t row = unit.row, block = unit.begin / resample_block, index = row * job.blocks + block;
  const int64_t *places = job.block_place + row * (job.blocks + 1) + block;
  const int64_t* thresholds = job.thresholds + row * job.threshold_step;
  int64_t place = 0;
  exponentials(job, unit, mass);
  integer_weights(mass, job.scale, unit.count, cumulative);
  if (job.scheme == Scheme::residual || job.scheme == Scheme::killing) {
    int64_t copies[resample_block], sum = job.block_pool[index], copied = job.block_copies[index];
    each_copied(job, unit, cumulative, [&](int64_t i, int64_t certain, int64_t left) {
      copies[i] = certain;
      sum += left;
      cumulative[i] = sum;
    });
    count_below(cumulative, unit.count, thresholds, places[0], places[1], children);
    place = places[0] + copied;
    for (int64_t i = 0; i < unit.count; ++i) {
      copied += copies[i];
      children[i] += copied;
    }
  } else {
    const int64_t start = job.block_total[index];
    int64_t sum = start;
    for (int64_t i = 0; i < unit.count; ++i) {
      sum += cumulative[i];
      cumulative[i] = sum;
    }
    if (job.scheme == Scheme::systematic) {
      count_strata(cumulative, unit.count, job.total[row], job.count, job.offset[row], children);
      count_strata(&start, 1, job.total[row], job.count, job.offset[row], &place);
    } else if (job.scheme == Scheme::ssp) {
      place = count_serial(job, unit, cumulative, start, job.block_gains[index], children);
    } else {
      count_below(cumulative, unit.count, thresholds, places[0], places[1], children);
      place = places[0];
    }
  }
  write_ancestors(children, unit.count, unit.begin, place, job.ancestors + row * job.count);
  const double factor = job.scale / double(job.total[row]);
  const int64_t first = row * job.particles + unit.begin;
  if (job.wide) {
    normalise(mass, factor, unit.count, static_cast<double*>(job.weights) + first);
  } else {
    normalise(mass, factor, unit.count, static_cast<float*>(job.weights) + first);
  }
}

void run_particles(const ResampleJob& job, ResampleStage stage, int64_t index) {
  const Unit unit(index, job.blocks, job.particles);
  const int64_t first = unit.row * job.particles + unit.begin;
  if (stage == ResampleStage::maximum) {
    job.block_maximum[index] =
        job.wide ? maximum_of<double, Doubles, Longs>(static_cast<const double*>(job.log_weights) + first, unit.count)
                 : maximum_of<float, Floats, Ints>(static_cast<const float*>(job.log_weights) + first, unit.count);
    return;
  }
  if (!is_finite(job.maximum[unit.row])) return;
  if (stage == ResampleStage::weigh) return weigh(job, unit, job.block_total[index], job.block_squares[index]);
  if (stage == ResampleStage::spread) return spread(job, unit);
  if (stage == ResampleStage::locate) {
    const int64_t draws = job.draws[unit.row], block = unit.begin / resample_block;
    int64_t* places = job.block_place + unit.row * (job.blocks + 1) + block;
    places[0] = first_not_below(job.thresholds + unit.row * job.threshold_step, draws, job.block_pool[index]);
    if (block == job.blocks - 1) places[1] = draws;
    return;
  }
  if (stage == ResampleStage::gains) {
    job.block_gains[index] = first_change(job, unit, job.block_total[index]);
    return;
  }
  double mass[resample_block];
  int64_t w[resample_block];
  exponentials(job, unit, mass);
  integer_weights(mass, job.scale, unit.count, w);
  int64_t sum_of_copies = 0, sum_of_left = 0;
  each_copied(job, unit, w, [&](int64_t, int64_t copies, int64_t left) {
    sum_of_copies += copies;
    sum_of_left += left;
  });
  (stage == ResampleStage::copies ? job.block_copies : job.block_pool)[index] =
      stage == ResampleStage::copies ? sum_of_copies : sum_of_left;
}

void run_draws(const ResampleJob& job, ResampleStage stage, int64_t index) {
  const int64_t row = index / job.draw_blocks;
  if (!is_finite(job.maximum[row])) return;
  const bool spacings = stage == ResampleStage::spacings;
  const Unit unit(index, job.draw_blocks, job.draws[row] + int(spacings));  // one spacing more than there are thresholds
  if (unit.count <= 0) {
    if (spacings) job.block_spacings[index] = 0;
    return;
  }
  if (spacings) {
    int64_t buffer[resample_block];
    make_spacings(job, row, unit.begin, unit.count, buffer);
    int64_t sum = 0;
    for (int64_t i = 0; i < unit.count; ++i) sum += buffer[i];
    job.block_spacings[index] = sum;
  } else if (job.scheme == Scheme::stratified) {
    draw_strata(job, unit);
  } else {
    draw_order(job, unit);
  }
}

}  // namespace

void resample_stage(const ResampleJob& job, ResampleStage stage, int64_t first, int64_t last) {
  const bool draws = stage == ResampleStage::spacings || stage == ResampleStage::draw;
  for (int64_t index = first; index < last; ++index) {
    draws ? run_draws(job, stage, index) : run_particles(job, stage, index);
  }
}

}  // namespace pushforward::PF_ISA
