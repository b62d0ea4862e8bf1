// Random numbers inside a thread: blocks of four words of a sample, and what distributions make of them.
#pragma once

#include "../core/normal.hpp"
#include "../core/uniform.hpp"
#include "formats.hpp"

namespace pushforward::PF_ISA {

using Key = Stream<uint32_t>;

PF_HD Draw draw_of(const NoiseKey& key) {
  return {uint32_t(key.seed), uint32_t(key.seed >> 32), key.purpose, key.step, key.stage, key.attempt};
}

// The key of a sample's own stream.
PF_HD Key stream_at(const NoiseKey& key, int64_t row) {
  const uint64_t sample = key.samples ? uint64_t(scalar(key.samples + row)) : uint64_t(row);
  return stream_of<OneLane>(draw_of(key), uint32_t(sample), uint32_t(sample >> 32));
}

// Four words: block number `block` of row `row`.
PF_HD Words<uint32_t> words_at(const NoiseKey& key, int64_t row, int64_t block) {
  return words_of<OneLane>(draw_of(key), stream_at(key, row), uint32_t(block));
}

// Keys of the streams that a block of threads needs: those of its first two rows are made once, by two threads a draw,
// and others, where rows are so short that there are more, by every thread for itself.
template <int draws>
struct Streams {
  Key of[draws][2];

  PF_HD void prepare(const NoiseKey* keys, int count, int64_t first_row, int64_t rows, int thread) {
    const int64_t row = first_row + thread % 2;
    if (thread < 2 * count && row < rows) of[thread / 2][thread % 2] = stream_at(keys[thread / 2], row);
  }
  PF_HD Key at(const NoiseKey* keys, int d, int64_t first_row, int64_t row) const {
    return row - first_row < 2 ? of[d][row - first_row] : stream_at(keys[d], row);
  }
};

struct Normals {
  using Number = float;
  static constexpr int of_block = 4;
  PF_HD static void make(const Words<uint32_t>& words, float* to) {
    box_muller<OneLane>(words.w[0], words.w[1], to[0], to[1]);
    box_muller<OneLane>(words.w[2], words.w[3], to[2], to[3]);
  }
};

struct Uniforms {
  using Number = float;
  static constexpr int of_block = 4;
  PF_HD static void make(const Words<uint32_t>& words, float* to) {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = uniform<OneLane>(words.w[i]);
  }
};

struct DoubleUniforms {
  using Number = double;
  static constexpr int of_block = 2;
  PF_HD static void make(const Words<uint32_t>& words, double* to) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      to[i] = uniform_double<double>(uint64_t(words.w[2 * i]), uint64_t(words.w[2 * i + 1]));
    }
  }
};

// Elements first ... first + N - 1 of a sample with this stream; `first` and N are multiples of the block.
template <class Distribution, int N>
PF_HD void draw(const NoiseKey& key, Key stream, int64_t first, typename Distribution::Number (&to)[N]) {
  constexpr int of_block = Distribution::of_block;
#pragma unroll
  for (int i = 0; i < N; i += of_block) {
    Distribution::make(words_of<OneLane>(draw_of(key), stream, uint32_t((first + i) / of_block)), to + i);
  }
}

}  // namespace pushforward::PF_ISA
