// Random numbers of a stretch of elements, many at a time.
#pragma once

#include "../core/normal.hpp"
#include "../core/uniform.hpp"
#include "job.hpp"
#include "simd.hpp"

namespace pushforward::PF_ISA {

// A distribution turns the words of a vector step, a block of four in each lane, into numbers, the blocks in order.
struct Normals {
  using Number = float;
  static constexpr int of_block = 4;

  PF_HD static void make(const Words<Halves>& words, Number* to) {
    Floats z0, z1, z2, z3;
    box_muller<ManyLanes>(join(words.w[0]), join(words.w[1]), z0, z1);
    box_muller<ManyLanes>(join(words.w[2]), join(words.w[3]), z2, z3);
    store_blocks(to, z0, z1, z2, z3);
  }
};

struct Uniforms {
  using Number = float;
  static constexpr int of_block = 4;

  PF_HD static void make(const Words<Halves>& words, Number* to) {
    store_blocks(to, uniform<ManyLanes>(join(words.w[0])), uniform<ManyLanes>(join(words.w[1])),
                 uniform<ManyLanes>(join(words.w[2])), uniform<ManyLanes>(join(words.w[3])));
  }
};

struct DoubleUniforms {
  using Number = double;
  static constexpr int of_block = 2;

  PF_HD static void make(const Words<Halves>& words, Number* to) {
    const Words64 even[] = {words.w[0].even, words.w[1].even, words.w[2].even, words.w[3].even};
    const Words64 odd[] = {words.w[0].odd, words.w[1].odd, words.w[2].odd, words.w[3].odd};
    store_pairs(to, uniform_double<Doubles>(even[0], even[1]), uniform_double<Doubles>(even[2], even[3]),
                uniform_double<Doubles>(odd[0], odd[1]), uniform_double<Doubles>(odd[2], odd[3]));
  }
};

PF_HD Draw draw_of(const NoiseKey& key) {
  return {uint32_t(key.seed), uint32_t(key.seed >> 32), key.purpose, key.step, key.stage, key.attempt};
}

PF_HD uint64_t sample_of(const NoiseKey& key, int64_t row) {
  return key.samples ? uint64_t(key.samples[row]) : uint64_t(row);
}

// Elements [first, first + count) of one row: the lanes work on blocks of the same sample.
template <class Distribution, class Number = typename Distribution::Number>
void fill_row(const NoiseKey& key, int64_t row, int64_t first, int64_t count, Number* to) {
  constexpr int of_block = Distribution::of_block, batch = of_block * lanes;
  const Draw draw = draw_of(key);
  const uint64_t sample = sample_of(key, row);
  const Stream<uint32_t> one = stream_of<OneLane>(draw, uint32_t(sample), uint32_t(sample >> 32));
  const Words32 zero = {};
  const Stream<Halves> stream = {split(zero + one.k0), split(zero + one.k1)};
  Words32 offset;
  for (int lane = 0; lane < lanes; ++lane) offset[lane] = uint32_t(block_of_lane(lane));
  int64_t block = first / of_block, skip = first % of_block;
  while (count > 0) {
    const Words<Halves> words = words_of<SplitLanes>(draw, stream, split(offset + uint32_t(block)));
    if (skip == 0 && count >= batch) {
      Distribution::make(words, to);
      to += batch;
      count -= batch;
    } else {
      Number all[batch];
      Distribution::make(words, all);
      const int64_t here = count < batch - skip ? count : batch - skip;
      __builtin_memcpy(to, all + skip, size_t(here) * sizeof(Number));
      to += here;
      count -= here;
      skip = 0;
    }
    block += lanes;
  }
}

// Flat elements [first, first + count) of rows so short that each lane takes a block of its own row.
template <class Distribution, class Number = typename Distribution::Number>
void fill_short_rows(const NoiseKey& key, int64_t row_size, int64_t first, int64_t count, Number* to) {
  constexpr int of_block = Distribution::of_block;
  const Draw draw = draw_of(key);
  int64_t row = first / row_size, element = first % row_size;
  while (count > 0) {
    uint32_t low[lanes] = {}, high[lanes] = {}, block[lanes] = {};
    int skip[lanes], keep[lanes], used = 0;
    for (int64_t left = count; used < lanes && left > 0; ++used) {
      const uint64_t sample = sample_of(key, row);
      low[used] = uint32_t(sample);
      high[used] = uint32_t(sample >> 32);
      block[used] = uint32_t(element / of_block);
      skip[used] = int(element % of_block);
      int64_t here = of_block - element % of_block;
      if (here > row_size - element) here = row_size - element;
      if (here > left) here = left;
      keep[used] = int(here);
      left -= here;
      element += here;
      if (element == row_size) {
        element = 0;
        ++row;
      }
    }
    Words32 lows, highs, blocks;
    for (int lane = 0; lane < lanes; ++lane) {
      const int from = block_of_lane(lane);
      lows[lane] = low[from];
      highs[lane] = high[from];
      blocks[lane] = block[from];
    }
    Number all[of_block * lanes];
    const Stream<Halves> streams = stream_of<SplitLanes>(draw, split(lows), split(highs));
    Distribution::make(words_of<SplitLanes>(draw, streams, split(blocks)), all);
    for (int i = 0; i < used; ++i) {
      for (int j = 0; j < keep[i]; ++j) to[j] = all[of_block * i + skip[i] + j];
      to += keep[i];
      count -= keep[i];
    }
  }
}

// Flat elements [first, first + count) of rows of any size.
template <class Distribution, class Number = typename Distribution::Number>
void fill_draws(const NoiseKey& key, int64_t row_size, int64_t first, int64_t count, Number* to) {
  if (row_size < Distribution::of_block * lanes) {
    return fill_short_rows<Distribution>(key, row_size, first, count, to);
  }
  while (count > 0) {
    const int64_t row = first / row_size, element = first % row_size;
    const int64_t here = count < row_size - element ? count : row_size - element;
    fill_row<Distribution>(key, row, element, here, to);
    first += here;
    count -= here;
    to += here;
  }
}

}  // namespace pushforward::PF_ISA
