// From cumulative weights to ancestors: thresholds of each scheme, and the search for the particles that exceed them.
#pragma once

#include "../core/resample.hpp"
#include "random.hpp"
#include "scan.hpp"

namespace pushforward::PF_ISA {

// The first particle from `low` on whose cumulative weight exceeds a threshold, or the last one.
PF_HD int64_t bisect(const int64_t* cumulative, int64_t low, int64_t last, int64_t threshold) {
  while (low < last) {
    const int64_t middle = (low + last) / 2;
    if (cumulative[middle] > threshold) {
      last = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// The same where it is likely to be near: by steps that double.
PF_HD int64_t find_from(const int64_t* cumulative, int64_t low, int64_t last, int64_t threshold) {
  int64_t high = low;
  for (int64_t step = 1; high < last && cumulative[high] <= threshold; step *= 2) {
    low = high + 1;
    high = high + step < last ? high + step : last;
  }
  return bisect(cumulative, low, high, threshold);
}

// Of ascending thresholds, the first `count` of which are there.
PF_HD void find(const Rows<int64_t>& cumulative, int64_t row, int count, const int64_t (&thresholds)[tile_items],
                int64_t (&to)[tile_items]) {
  const int64_t* const from = cumulative.row(row);
  const int64_t last = cumulative.length - 1;
  int64_t particle = count > 0 ? bisect(from, 0, last, thresholds[0]) : 0;
  to[0] = particle;
#pragma unroll
  for (int i = 1; i < tile_items; ++i) {
    if (i < count) particle = find_from(from, particle, last, thresholds[i]);
    to[i] = particle;
  }
}

template <class Thresholds>
struct Ancestors {
  static constexpr int threads = tile_threads, phases = 1;
  using Shared = Nothing;
  using Local = Nothing;

  Tiles tiles;
  Thresholds thresholds;
  Rows<int64_t> cumulative, ancestors;

  template <int phase>
  PF_HD void run(Place place, Shared&, Local&) const {
    const Items at = tiles.at(place);
    if (at.count == 0) return;
    int64_t wanted[tile_items], found[tile_items];
    thresholds.make(at, wanted);
    find(cumulative, at.row, at.count, wanted, found);
    ancestors.write(at, found);
  }
};

// floor((j total + offset) / M): one division for all, the next ones follow from what it leaves.
struct SystematicThresholds {
  int64_t count;
  const int64_t *quotient, *remainder, *offset;

  PF_HD void make(const Items& at, int64_t (&to)[tile_items]) const {
    const int64_t whole = scalar(quotient + at.row), part = scalar(remainder + at.row);
    const Split split(at.first * part + scalar(offset + at.row), count);
    int64_t threshold = at.first * whole + split.quotient, rest = split.rest;
#pragma unroll
    for (int i = 0; i < tile_items; ++i) {
      to[i] = threshold;
      rest += part;
      const int64_t carry = int64_t(rest >= count);
      rest -= carry ? count : 0;
      threshold += whole + carry;
    }
  }
};

struct StratifiedThresholds {
  int64_t count;
  const int64_t *quotient, *remainder, *total;
  NoiseKey noise;

  PF_HD void make(const Items& at, int64_t (&to)[tile_items]) const {
    const Strata strata(scalar(quotient + at.row), scalar(remainder + at.row), count);
    const int64_t all = scalar(total + at.row);
#pragma unroll
    for (int i = 0; i < tile_items; i += 2) {  // two words each
      const Words<uint32_t> words = words_at(noise, at.row, (at.first + i) / 2);
      to[i] = strata.threshold(at.first + i, uniform_below(words.w[0], words.w[1], all));
      to[i + 1] = strata.threshold(at.first + i + 1, uniform_below(words.w[2], words.w[3], all));
    }
  }
};

// Where cumulative numbers of children exceed the ancestor's own number.
struct Places {
  PF_HD void make(const Items& at, int64_t (&to)[tile_items]) const {
#pragma unroll
    for (int i = 0; i < tile_items; ++i) to[i] = at.first + i;
  }
};

// Spacings of sorted uniform numbers, one more than there are draws; their cumulative sums make thresholds. `counted`:
// a draw is one more child of its particle, else it is an ancestor.
template <bool counted>
struct Spacings {
  static constexpr int channels = 1;
  using Kept = Nothing;

  NoiseKey noise;
  double scale;
  const int64_t *draws, *pool, *sum;
  Rows<int64_t> cumulative, to_rows;

  PF_HD void numbers(const Items& at, Kept&, int64_t (&to)[channels][tile_items]) const {
    const int count = count_of(at.first, scalar(draws + at.row) + 1);
    Words<uint32_t> words = {};
    if (count > 0) words = words_at(noise, at.row, at.first / 4);
#pragma unroll
    for (int i = 0; i < tile_items; ++i) to[0][i] = i < count ? spacing(words.w[i], scale) : 0;
  }
  PF_HD void finish(const Items& at, const Kept&, const int64_t (&sums)[tile_items]) const {
    const Items drawn = {at.row, at.first, count_of(at.first, scalar(draws + at.row))};
    if (drawn.count == 0) return;
    const int64_t total = scalar(pool + at.row);
    const double ratio = double(total) / double(scalar(sum + at.row));
    int64_t thresholds[tile_items], found[tile_items];
#pragma unroll
    for (int i = 0; i < tile_items; ++i) thresholds[i] = order_threshold(sums[i], ratio, total);
    find(cumulative, at.row, drawn.count, thresholds, found);
    if constexpr (counted) {
#pragma unroll
      for (int i = 0; i < tile_items; ++i) {
        if (i < drawn.count) atomic_add(to_rows.row(at.row) + found[i], 1);
      }
    } else {
      to_rows.write(drawn, found);
    }
  }
};

}  // namespace pushforward::PF_ISA
