// The inner loop where coefficients change from element to element: they are looked up in a table.
#pragma once

#include "mix.hpp"

namespace pushforward::PF_ISA {

// Where every element has a group of its own, a table so short that one vector register holds a column of it is read by
// a permutation, which costs one cycle.
template <class Pack>
constexpr bool can_permute = false;

#if defined(__AVX512F__)
template <>
constexpr bool can_permute<Floats> = true;
template <>
constexpr bool can_permute<Doubles> = true;

PF_HD Floats permute(Floats column, const int32_t* rows) {
  return (Floats)_mm512_permutexvar_ps(load<__m512i>(rows), (__m512)column);
}
PF_HD Doubles permute(Doubles column, const int32_t* rows) {
  return (Doubles)_mm512_permutexvar_pd(_mm512_cvtepi32_epi64(load<__m256i>(rows)), (__m512d)column);
}
#elif defined(__AVX2__)
template <>
constexpr bool can_permute<Floats> = true;

PF_HD Floats permute(Floats column, const int32_t* rows) {
  return (Floats)_mm256_permutevar8x32_ps((__m256)column, load<__m256i>(rows));
}
#endif

// Coefficients of the terms, inputs first and then draws, of every row.
template <class Format>
struct Table {
  using Wide = typename Format::Wide;
  using Pack = typename Format::Pack;
  static constexpr int width = Format::width;

  const Job& job;
  const int terms;
  bool permuted = false;
  Pack columns[max_outputs][max_inputs + max_draws];  // if `permuted`

  explicit Table(const Job& job) : job(job), terms(job.inputs + job.draws) {
    if constexpr (can_permute<Pack>) {
      permuted = job.groups.run == 1 && job.groups.count <= width;
      if (!permuted) return;
      for (int o = 0; o < job.outputs; ++o) {
        for (int t = 0; t < terms; ++t) {
          Wide column[width] = {};
          for (int row = 0; row < job.groups.count; ++row) column[row] = Wide(this->column(o, t)[row * step(t)]);
          columns[o][t] = load<Pack>(column);
        }
      }
    }
  }

  // The first row's coefficient, and how far the next row's is.
  PF_HD const double* column(int o, int t) const {
    return t < job.inputs ? job.weights + o * job.inputs + t : job.scales + o * job.draws + t - job.inputs;
  }
  PF_HD int64_t step(int t) const { return t < job.inputs ? job.weights_step : job.scales_step; }
};

// Elements whose coefficients wait in the first-level cache. Behind them is room for the last vector of a run, which
// is stored whole, to be overwritten by the next run's.
constexpr int64_t stretch = 128;
template <class Format>
struct Expanded {
  typename Format::Wide weights[max_outputs][max_inputs + max_draws][stretch + Format::width];
};

// Coefficients of `count` elements: those of the first run begin `skip` elements before.
template <class Format>
void expand(const Table<Format>& table, const int32_t* of_runs, int64_t run, int64_t skip, int64_t count,
            Expanded<Format>& to) {
  using Wide = typename Format::Wide;
  using Pack = typename Format::Pack;
  for (int o = 0; o < table.job.outputs; ++o) {
    for (int t = 0; t < table.terms; ++t) {
      const double* column = table.column(o, t);
      const int64_t step = table.step(t);
      Wide* weights = to.weights[o][t];
      if (run == 1) {
        for (int64_t i = 0; i < count; ++i) weights[i] = Wide(column[of_runs[i] * step]);
        continue;
      }
      for (int64_t i = 0, end = run - skip, at = 0; i < count; ++at, i = end, end += run) {
        const Pack weight = Wide(column[of_runs[at] * step]) - Pack{};  // minus zero stays what it is
        const int64_t last = end < count ? end : count;
        for (int64_t j = i; j < last; j += Format::width) store(weights + j, weight);
      }
    }
  }
}

// The same sums as mix_any, with coefficients of every element's own: rows[i] of a table of short columns, or
// expanded. T terms; 0: any number.
template <class Format, int T, bool permuted>
int mix_table(const Block<Format>& block, const Table<Format>& table, const int32_t* rows,
              const Expanded<Format>& expanded, int64_t count) {
  using Pack = typename Format::Pack;
  using Wide = typename Format::Wide;
  constexpr int width = Format::width;
  const int terms = T > 0 ? T : table.terms, inputs = block.inputs, outputs = block.outputs;
  typename Format::Check check = {};
  uint64_t rest = 0;
  int64_t i = 0;
  for (; i + width <= count; i += width) {
    Pack x[T > 0 ? T : max_inputs + max_draws];
    for (int t = 0; t < terms; ++t) {
      x[t] = t < inputs ? Format::load_pack(block.in[t] + i) : Format::widen_normals(block.noise[t - inputs] + i);
    }
    for (int o = 0; o < outputs; ++o) {
      Pack sum = {};
      for (int t = 0; t < terms; ++t) {
        Pack weight;
        if constexpr (permuted) {
          weight = permute(table.columns[o][t], rows + i);
        } else {
          weight = load<Pack>(expanded.weights[o][t] + i);
        }
        sum = t == 0 ? x[t] * weight : sum + x[t] * weight;
      }
      Format::template store_pack<false>(block.out[o] + i, sum, check);
    }
  }
  for (; i < count; ++i) {
    Wide x[max_inputs + max_draws];
    for (int t = 0; t < terms; ++t) {
      x[t] = t < inputs ? Format::load_one(block.in[t] + i) : Wide(block.noise[t - inputs][i]);
    }
    for (int o = 0; o < outputs; ++o) {
      Wide sum = 0;
      for (int t = 0; t < terms; ++t) {
        const Wide weight =
            permuted ? Wide(table.column(o, t)[rows[i] * table.step(t)]) : expanded.weights[o][t][i];
        sum = t == 0 ? x[t] * weight : sum + x[t] * weight;
      }
      Format::store_one(block.out[o] + i, sum, rest);
    }
  }
  return ((rest | any_lane(check)) & Format::sign) != 0;
}

template <class Format>
using MixTable = int (*)(const Block<Format>&, const Table<Format>&, const int32_t*, const Expanded<Format>&, int64_t);

template <class Format>
MixTable<Format> choose_mix_table(const Table<Format>& table) {
  const int terms = table.terms <= 3 ? table.terms : 0;
  if constexpr (can_permute<typename Format::Pack>) {
    static constexpr MixTable<Format> by_permutation[] = {mix_table<Format, 0, true>, mix_table<Format, 1, true>,
                                                          mix_table<Format, 2, true>, mix_table<Format, 3, true>};
    if (table.permuted) return by_permutation[terms];
  }
  static constexpr MixTable<Format> by_memory[] = {mix_table<Format, 0, false>, mix_table<Format, 1, false>,
                                                   mix_table<Format, 2, false>, mix_table<Format, 3, false>};
  return by_memory[terms];
}

}  // namespace pushforward::PF_ISA
