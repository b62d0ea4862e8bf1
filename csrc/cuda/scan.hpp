// Sums and cumulative sums of integers along rows of any length, in tiles of a block each: Sums adds up the tiles,
// RowScan makes their sums cumulative, Scan gives every number the sum up to itself.
//
// Where the integers come from, and what is done with their sums, is a Source:
//
//   static constexpr int channels;  // how many sums Sums makes; Scan takes the first
//   struct Kept { ... };            // what a thread of Scan keeps from one to the other
//   PF_HD void numbers(const Items& at, Kept& kept, int64_t (&to)[channels][tile_items]) const;  // 0 past the end
//   PF_HD void finish(const Items& at, const Kept& kept, const int64_t (&sums)[tile_items]) const;
#pragma once

#include <type_traits>

#include "launch.hpp"

namespace pushforward::PF_ISA {

constexpr int tile_threads = 256, tile_items = 4, tile_size = tile_threads * tile_items;

// What a thread has: `count` neighbours from `first` on, in a row; the threads past the end of a row have none.
struct Items {
  int64_t row, first;
  int count;
};

PF_HD int count_of(int64_t first, int64_t end) {
  const int64_t left = end - first;
  return left >= tile_items ? tile_items : left > 0 ? int(left) : 0;
}

// Rows of `length` numbers, cut into tiles.
struct Tiles {
  int64_t rows, length, in_row;

  Tiles(int64_t rows, int64_t length) : rows(rows), length(length), in_row(ceil_division(length, tile_size)) {}
  int64_t total() const { return rows * in_row; }
  PF_HD Items at(Place place) const {
    const Split split(place.block, in_row);
    const int64_t first = split.rest * tile_size + place.thread * tile_items;
    return {split.quotient, first, count_of(first, length)};
  }
};

// Rows in memory, read and written 16 bytes at a time where all rows begin at multiples of 16 bytes.
template <class T>
struct Rows {
  T* address;
  int64_t length;
  bool aligned;

  Rows(T* address, int64_t length)
      : address(address),
        length(length),
        aligned(length % tile_items == 0 && reinterpret_cast<uintptr_t>(address) % 16 == 0) {}
  PF_HD T* row(int64_t index) const { return address + index * length; }
  PF_HD void read(const Items& at, std::remove_const_t<T> (&to)[tile_items]) const {
    const std::remove_const_t<T>* const from = row(at.row) + at.first;
    if (aligned && at.count == tile_items) {
      PF_ISA::read<true>(from, tile_items, to);
    } else {
      PF_ISA::read<false>(from, at.count, to);
    }
  }
  PF_HD void write(const Items& at, const T (&from)[tile_items]) const {
    T* const to = row(at.row) + at.first;
    if (aligned && at.count == tile_items) {
      PF_ISA::write<true>(to, tile_items, from);
    } else {
      PF_ISA::write<false>(to, at.count, from);
    }
  }
};

struct Add {
  PF_HD static int64_t join(int64_t a, int64_t b) { return a + b; }
};

// A number of each thread of a block and what they come to. Between `put`, `join_groups` and the rest, all threads wait
// for each other. A group has a slot more than it needs, or its first slots would share a bank of memory with others'.
template <class Number, class Operation>
struct BlockNumbers {
  static constexpr int group = 16, groups = tile_threads / group;
  Number of_thread[groups * (group + 1)], of_group[groups];

  PF_HD void put(int thread, Number number) { of_thread[thread + thread / group] = number; }
  PF_HD void join_groups(int thread) {
    if (thread >= groups) return;
    const Number* const from = of_thread + thread * (group + 1);
    Number number = from[0];
#pragma unroll 4
    for (int i = 1; i < group; ++i) number = Operation::join(number, from[i]);
    of_group[thread] = number;
  }
  PF_HD Number all() const {
    Number number = of_group[0];
#pragma unroll 4
    for (int i = 1; i < groups; ++i) number = Operation::join(number, of_group[i]);
    return number;
  }
  // Of the threads before this one; `nothing` if there are none.
  PF_HD Number before(int thread, Number nothing) const {
    Number number = nothing;
    const int own = thread / group;
    for (int i = 0; i < own; ++i) number = Operation::join(number, of_group[i]);
    for (int i = 0; i < thread % group; ++i) number = Operation::join(number, of_thread[own * (group + 1) + i]);
    return number;
  }
};

using BlockSums = BlockNumbers<int64_t, Add>;

PF_HD int64_t sum_of(const int64_t (&numbers)[tile_items]) {
  int64_t sum = 0;
#pragma unroll
  for (int i = 0; i < tile_items; ++i) sum += numbers[i];
  return sum;
}

template <class Source>
struct Sums {
  static constexpr int threads = tile_threads, phases = 3, channels = Source::channels;
  struct Shared {
    BlockSums sums[channels];
  };
  using Local = Nothing;

  Tiles tiles;
  Source source;
  int64_t* to[channels];  // [rows, tiles of a row]

  template <int phase>
  PF_HD void run(Place place, Shared& shared, Local&) const {
    if constexpr (phase == 0) {
      typename Source::Kept kept;
      int64_t numbers[channels][tile_items];
      source.numbers(tiles.at(place), kept, numbers);
#pragma unroll
      for (int c = 0; c < channels; ++c) shared.sums[c].put(place.thread, sum_of(numbers[c]));
    } else {
#pragma unroll
      for (int c = 0; c < channels; ++c) {
        if constexpr (phase == 1) {
          shared.sums[c].join_groups(place.thread);
        } else if (place.thread == c) {
          to[c][place.block] = shared.sums[c].all();
        }
      }
    }
  }
};

// A block for each row: the first channel's sums of tiles become those of the tiles before; `finish(row, sums)` is told
// the sums of the row.
template <class Finish>
struct RowScan {
  static constexpr int threads = tile_threads, phases = 3, channels = Finish::channels;
  struct Shared {
    BlockSums sums[channels];
  };
  using Local = Nothing;

  int64_t in_row;
  int64_t* sums[channels];
  Finish finish;

  template <int phase>
  PF_HD void run(Place place, Shared& shared, Local&) const {
    const int64_t several = (in_row + threads - 1) / threads, first = place.thread * several;
    const int64_t last = first + several < in_row ? first + several : in_row;  // none, if last < first
    if constexpr (phase == 0) {
#pragma unroll
      for (int c = 0; c < channels; ++c) {
        const int64_t* const from = sums[c] + place.block * in_row;
        int64_t sum = 0;
        for (int64_t i = first; i < last; ++i) sum += from[i];
        shared.sums[c].put(place.thread, sum);
      }
    } else if constexpr (phase == 1) {
#pragma unroll
      for (int c = 0; c < channels; ++c) shared.sums[c].join_groups(place.thread);
    } else {
      int64_t* const cumulative = sums[0] + place.block * in_row;
      int64_t sum = shared.sums[0].before(place.thread, 0);
      for (int64_t i = first; i < last; ++i) {
        const int64_t number = cumulative[i];
        cumulative[i] = sum;
        sum += number;
      }
      if (place.thread > 0) return;
      int64_t all[channels];
#pragma unroll
      for (int c = 0; c < channels; ++c) all[c] = shared.sums[c].all();
      finish(place.block, all);
    }
  }
};

template <class Source>
struct Scan {
  static constexpr int threads = tile_threads, phases = 3;
  struct Shared {
    BlockSums sums;
  };
  struct Local {
    int64_t numbers[tile_items];
    typename Source::Kept kept;
  };

  Tiles tiles;
  Source source;
  const int64_t* before;  // what RowScan made of the sums of the tiles

  template <int phase>
  PF_HD void run(Place place, Shared& shared, Local& local) const {
    if constexpr (phase == 0) {
      int64_t numbers[Source::channels][tile_items];
      source.numbers(tiles.at(place), local.kept, numbers);
#pragma unroll
      for (int i = 0; i < tile_items; ++i) local.numbers[i] = numbers[0][i];
      shared.sums.put(place.thread, sum_of(local.numbers));
    } else if constexpr (phase == 1) {
      shared.sums.join_groups(place.thread);
    } else {
      int64_t sums[tile_items], sum = before[place.block] + shared.sums.before(place.thread, 0);
#pragma unroll
      for (int i = 0; i < tile_items; ++i) sums[i] = sum += local.numbers[i];
      source.finish(tiles.at(place), local.kept, sums);
    }
  }
};

// Launches for a Source, one after the other on a stream.
template <class Source, class Finish>
void sum_rows(const Tiles& tiles, const Source& source, int64_t* const (&sums)[Source::channels], const Finish& finish,
              void* stream) {
  static_assert(Source::channels == Finish::channels);
  Sums<Source> of_tiles{tiles, source, {}};
  RowScan<Finish> of_rows{tiles.in_row, {}, finish};
  for (int c = 0; c < Source::channels; ++c) of_tiles.to[c] = of_rows.sums[c] = sums[c];
  launch(tiles.total(), of_tiles, stream);
  launch(tiles.rows, of_rows, stream);
}

template <class Source>
void scan_rows(const Tiles& tiles, const Source& source, const int64_t* before, void* stream) {
  launch(tiles.total(), Scan<Source>{tiles, source, before}, stream);
}

}  // namespace pushforward::PF_ISA
