// Standard normals of a stretch of elements, many at a time.
#pragma once

#include "../core/normal.hpp"
#include "job.hpp"
#include "simd.hpp"

namespace pushforward::PF_ISA {

constexpr int batch = 4 * lanes;  // normals of one vector step: one block of four in each lane

PF_HD Draw draw_of(const NoiseKey& key) {
  return {uint32_t(key.seed), uint32_t(key.seed >> 32), key.purpose, key.step, key.stage, key.attempt};
}

PF_HD uint64_t sample_of(const NoiseKey& key, int64_t row) {
  return key.samples ? uint64_t(key.samples[row]) : uint64_t(row);
}

PF_HD void normals_of(const Words<Halves>& words, float* to) {
  Floats z0, z1, z2, z3;
  box_muller<ManyLanes>(join(words.w[0]), join(words.w[1]), z0, z1);
  box_muller<ManyLanes>(join(words.w[2]), join(words.w[3]), z2, z3);
  store_blocks(to, z0, z1, z2, z3);
}

// Elements [first, first + count) of one row: the lanes work on blocks of the same sample.
inline void fill_row(const NoiseKey& key, int64_t row, int64_t first, int64_t count, float* to) {
  const Draw draw = draw_of(key);
  const uint64_t sample = sample_of(key, row);
  const Stream<uint32_t> one = stream_of<OneLane>(draw, uint32_t(sample), uint32_t(sample >> 32));
  const Words32 zero = {};
  const Stream<Halves> stream = {split(zero + one.k0), split(zero + one.k1)};
  Words32 offset;
  for (int lane = 0; lane < lanes; ++lane) offset[lane] = uint32_t(block_of_lane(lane));
  int64_t block = first / 4, skip = first % 4;
  while (count > 0) {
    const Words<Halves> words = words_of<SplitLanes>(draw, stream, split(offset + uint32_t(block)));
    if (skip == 0 && count >= batch) {
      normals_of(words, to);
      to += batch;
      count -= batch;
    } else {
      float all[batch];
      normals_of(words, all);
      const int64_t here = count < batch - skip ? count : batch - skip;
      __builtin_memcpy(to, all + skip, size_t(here) * sizeof(float));
      to += here;
      count -= here;
      skip = 0;
    }
    block += lanes;
  }
}

// Flat elements [first, first + count) of rows so short that each lane takes a block of its own row.
inline void fill_short_rows(const NoiseKey& key, int64_t row_size, int64_t first, int64_t count, float* to) {
  const Draw draw = draw_of(key);
  int64_t row = first / row_size, element = first % row_size;
  while (count > 0) {
    uint32_t low[lanes] = {}, high[lanes] = {}, block[lanes] = {};
    int skip[lanes], keep[lanes], used = 0;
    for (int64_t left = count; used < lanes && left > 0; ++used) {
      const uint64_t sample = sample_of(key, row);
      low[used] = uint32_t(sample);
      high[used] = uint32_t(sample >> 32);
      block[used] = uint32_t(element / 4);
      skip[used] = int(element % 4);
      int64_t here = 4 - element % 4;
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
    float all[batch];
    const Stream<Halves> streams = stream_of<SplitLanes>(draw, split(lows), split(highs));
    normals_of(words_of<SplitLanes>(draw, streams, split(blocks)), all);
    for (int i = 0; i < used; ++i) {
      for (int j = 0; j < keep[i]; ++j) to[j] = all[4 * i + skip[i] + j];
      to += keep[i];
      count -= keep[i];
    }
  }
}

inline void fill_normals(const NoiseKey& key, int64_t row_size, int64_t first, int64_t count, float* to) {
  if (row_size < batch) return fill_short_rows(key, row_size, first, count, to);
  while (count > 0) {
    const int64_t row = first / row_size, element = first % row_size;
    const int64_t here = count < row_size - element ? count : row_size - element;
    fill_row(key, row, element, here, to);
    first += here;
    count -= here;
    to += here;
  }
}

}  // namespace pushforward::PF_ISA
