// Philox4x32-10 (Salmon et al. 2011) and the two-level key of the library. kernels/philox.py is the definition.
#pragma once

#include "config.hpp"

namespace pushforward::PF_ISA {

template <class U>
struct Words {
  U w[4];
};

template <class Lanes, class U = typename Lanes::U>
PF_HD Words<U> philox(U c0, U c1, U c2, U c3, U k0, U k1) {
  for (int round = 0; round < 10; ++round) {
    U high0, low0, high1, low1;
    Lanes::multiply(c0, 0xD2511F53u, high0, low0);
    Lanes::multiply(c2, 0xCD9E8D57u, high1, low1);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = k0 + 0x9E3779B9u;
    k1 = k1 + 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Which draw of a sample; equal draws give equal numbers.
struct Draw {
  uint32_t seed_low, seed_high, purpose, step, stage, attempt;
};

template <class U>
struct Stream {
  U k0, k1;
};

template <class Lanes, class U = typename Lanes::U>
PF_HD Stream<U> stream_of(const Draw& draw, U sample_low, U sample_high) {
  const U zero = sample_low ^ sample_low;
  const Words<U> words = philox<Lanes>(sample_low, sample_high, zero + draw.purpose, zero + draw.stage,
                                       zero + draw.seed_low, zero + draw.seed_high);
  return {words.w[0], words.w[1]};
}

// The words of elements 4 * block ... 4 * block + 3 of a sample.
template <class Lanes, class U = typename Lanes::U>
PF_HD Words<U> words_of(const Draw& draw, Stream<U> stream, U block) {
  const U zero = block ^ block;
  return philox<Lanes>(block, zero + draw.step, zero + draw.attempt, zero, stream.k0, stream.k1);
}

}  // namespace pushforward::PF_ISA
