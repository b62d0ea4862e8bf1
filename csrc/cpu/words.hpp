// The random words of a stretch of elements of one sample, many at a time.
#pragma once

#include "normals.hpp"

namespace pushforward::PF_ISA {

// Words of elements [first, first + count), first a multiple of 4; `to` has room for `batch` words more than that.
inline void fill_words(const NoiseKey& key, int64_t row, int64_t first, int64_t count, uint32_t* to) {
  const Draw draw = draw_of(key);
  const uint64_t sample = sample_of(key, row);
  const Stream<uint32_t> one = stream_of<OneLane>(draw, uint32_t(sample), uint32_t(sample >> 32));
  uint32_t block = uint32_t(first / 4);
  if (count <= 4) {
    const Words<uint32_t> words = words_of<OneLane>(draw, one, block);
    for (int64_t j = 0; j < count; ++j) to[j] = words.w[j];
    return;
  }
  const Words32 zero = {};
  const Stream<Halves> stream = {split(zero + one.k0), split(zero + one.k1)};
  Words32 offset;
  for (int lane = 0; lane < lanes; ++lane) offset[lane] = uint32_t(block_of_lane(lane));
  for (int64_t done = 0; done < count; done += batch, block += lanes) {
    const Words<Halves> words = words_of<SplitLanes>(draw, stream, split(offset + block));
    store_blocks(reinterpret_cast<float*>(to + done), (Floats)join(words.w[0]), (Floats)join(words.w[1]),
                 (Floats)join(words.w[2]), (Floats)join(words.w[3]));
  }
}

}  // namespace pushforward::PF_ISA
