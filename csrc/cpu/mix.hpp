// The inner loops: weighted sums over contiguous memory.
#pragma once

#include "../core/combine.hpp"
#include "formats.hpp"
#include "job.hpp"

namespace pushforward::PF_ISA {

// What an inner loop needs; pointers to contiguous numbers. Outputs may coincide with inputs: each step reads all it
// needs before it writes.
template <class Format>
struct Block {
  using Stored = typename Format::Stored;
  using Wide = typename Format::Wide;
  int inputs, outputs, draws;
  const Stored* in[max_inputs];
  Stored* out[max_outputs];
  const float* noise[max_draws];
  Wide weight[max_outputs][max_inputs + max_draws];  // of the inputs, then of the draws

  void advance(int64_t count) {
    for (int k = 0; k < inputs; ++k) in[k] += count;
    for (int o = 0; o < outputs; ++o) out[o] += count;
    for (int d = 0; d < draws; ++d) noise[d] += count;
  }
};

template <class Check>
PF_HD uint64_t any_lane(Check check) {
  uint64_t any = 0;
  for (unsigned i = 0; i < sizeof(Check) / sizeof(check[0]); ++i) any |= check[i];
  return any;
}

// K inputs, O outputs and D draws known at compile time: everything stays in registers. `past_cache`: outputs are
// written with non-temporal stores, from the first element on whose addresses allow them.
template <class Format, int K, int O, int D, bool past_cache>
int mix_fixed(const Block<Format>& block, int64_t count) {
  using Pack = typename Format::Pack;
  using Wide = typename Format::Wide;
  using Stored = typename Format::Stored;
  constexpr int terms = K + D;
  const Stored* in[K > 0 ? K : 1];
  Stored* out[O];
  const float* noise = D > 0 ? block.noise[0] : nullptr;
  Wide weight[O][terms];
  for (int k = 0; k < K; ++k) in[k] = block.in[k];
  for (int o = 0; o < O; ++o) {
    out[o] = block.out[o];
    for (int k = 0; k < terms; ++k) weight[o][k] = block.weight[o][k];
  }
  typename Format::Check check = {};
  uint64_t rest = 0;
  auto many = [&](int64_t at) __attribute__((always_inline)) {
    Pack x[terms];
    for (int k = 0; k < K; ++k) x[k] = Format::load_pack(in[k] + at);
    if constexpr (D > 0) x[K] = Format::widen_normals(noise + at);
    for (int o = 0; o < O; ++o) {
      Format::template store_pack<past_cache>(out[o] + at, weighted_sum(x, weight[o]), check);
    }
  };
  auto one = [&](int64_t at) __attribute__((always_inline)) {
    Wide x[terms];
    for (int k = 0; k < K; ++k) x[k] = Format::load_one(in[k] + at);
    if constexpr (D > 0) x[K] = Wide(noise[at]);
    for (int o = 0; o < O; ++o) Format::store_one(out[o] + at, weighted_sum(x, weight[o]), rest);
  };
  int64_t i = 0;
  if constexpr (past_cache) {
    constexpr uintptr_t alignment = Format::width * sizeof(Stored);
    for (int o = 1; o < O; ++o) {
      const uintptr_t apart = reinterpret_cast<uintptr_t>(out[o]) - reinterpret_cast<uintptr_t>(out[0]);
      if (apart % alignment != 0) return mix_fixed<Format, K, O, D, false>(block, count);
    }
    const int64_t head = int64_t((0 - reinterpret_cast<uintptr_t>(out[0])) % alignment / sizeof(Stored));
    for (; i < head && i < count; ++i) one(i);
  }
  for (; i + 2 * Format::width <= count; i += 2 * Format::width) {
    many(i);
    many(i + Format::width);
  }
  for (; i + Format::width <= count; i += Format::width) many(i);
  for (; i < count; ++i) one(i);
  return ((rest | any_lane(check)) & Format::sign) != 0;
}

// Any number of inputs, outputs and draws: the widened numbers of a few vectors wait in the first-level cache.
template <class Format>
int mix_any(const Block<Format>& block, int64_t count) {
  using Pack = typename Format::Pack;
  using Wide = typename Format::Wide;
  constexpr int width = Format::width;
  const int terms = block.inputs + block.draws;
  typename Format::Check check = {};
  uint64_t rest = 0;
  int64_t i = 0;
  for (; i + width <= count; i += width) {
    Pack x[max_inputs + max_draws];
    for (int k = 0; k < block.inputs; ++k) x[k] = Format::load_pack(block.in[k] + i);
    for (int d = 0; d < block.draws; ++d) x[block.inputs + d] = Format::widen_normals(block.noise[d] + i);
    for (int o = 0; o < block.outputs; ++o) {
      Pack sum = {};
      if (terms > 0) sum = x[0] * block.weight[o][0];
      for (int k = 1; k < terms; ++k) sum = sum + x[k] * block.weight[o][k];
      Format::template store_pack<false>(block.out[o] + i, sum, check);
    }
  }
  for (; i < count; ++i) {
    Wide x[max_inputs + max_draws];
    for (int k = 0; k < block.inputs; ++k) x[k] = Format::load_one(block.in[k] + i);
    for (int d = 0; d < block.draws; ++d) x[block.inputs + d] = Wide(block.noise[d][i]);
    for (int o = 0; o < block.outputs; ++o) {
      Wide sum = 0;
      if (terms > 0) sum = x[0] * block.weight[o][0];
      for (int k = 1; k < terms; ++k) sum = sum + x[k] * block.weight[o][k];
      Format::store_one(block.out[o] + i, sum, rest);
    }
  }
  return ((rest | any_lane(check)) & Format::sign) != 0;
}

template <class Format>
using Mix = int (*)(const Block<Format>&, int64_t);

// The loop for these numbers of inputs, outputs and draws.
template <class Format>
Mix<Format> choose_mix(int inputs, int outputs, int draws) {
  if (inputs == 0 && outputs == 1 && draws == 1) return mix_fixed<Format, 0, 1, 1, false>;
  if (inputs < 1 || inputs > 8 || outputs > 2 || draws > 1) return mix_any<Format>;
#define PF_ROW(K)                                                                                   \
  {                                                                                                 \
    {mix_fixed<Format, K, 1, 0, false>, mix_fixed<Format, K, 1, 1, false>},                         \
    {mix_fixed<Format, K, 2, 0, false>, mix_fixed<Format, K, 2, 1, false>},                         \
  }
  static constexpr Mix<Format> table[8][2][2] = {PF_ROW(1), PF_ROW(2), PF_ROW(3), PF_ROW(4),
                                                 PF_ROW(5), PF_ROW(6), PF_ROW(7), PF_ROW(8)};
#undef PF_ROW
  return table[inputs - 1][outputs - 1][draws];
}

// The loop that writes past the caches; null if there is none for these numbers.
template <class Format>
Mix<Format> choose_mix_past_cache(int inputs, int outputs, int draws) {
  if (inputs > 8 || outputs > 2 || draws > 1 || inputs + draws == 0) return nullptr;
  if (outputs == 2) {
    static constexpr Mix<Format> two[6] = {
        nullptr, mix_fixed<Format, 1, 2, 0, true>, mix_fixed<Format, 2, 2, 0, true>, mix_fixed<Format, 3, 2, 0, true>,
        mix_fixed<Format, 4, 2, 0, true>, mix_fixed<Format, 5, 2, 0, true>};
    return draws == 0 && inputs <= 5 ? two[inputs] : nullptr;
  }
  static constexpr Mix<Format> without[9] = {
      nullptr, mix_fixed<Format, 1, 1, 0, true>, mix_fixed<Format, 2, 1, 0, true>, mix_fixed<Format, 3, 1, 0, true>,
      mix_fixed<Format, 4, 1, 0, true>, mix_fixed<Format, 5, 1, 0, true>, mix_fixed<Format, 6, 1, 0, true>,
      mix_fixed<Format, 7, 1, 0, true>, mix_fixed<Format, 8, 1, 0, true>};
  // With noise, arithmetic is the limit: only the common numbers of inputs.
  static constexpr Mix<Format> with[9] = {mix_fixed<Format, 0, 1, 1, true>, mix_fixed<Format, 1, 1, 1, true>,
                                          mix_fixed<Format, 2, 1, 1, true>, mix_fixed<Format, 3, 1, 1, true>};
  return draws == 0 ? without[inputs] : with[inputs];
}

}  // namespace pushforward::PF_ISA
