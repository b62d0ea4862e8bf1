// The inner loop where coefficients change from element to element: they are looked up in a table.
#pragma once

#include "mix.hpp"

namespace pushforward::PF_ISA {

// A table so short that one vector register holds a column of it is read by a permutation, which costs one cycle.
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

// Numbers column[index[lane]], rounded to the type of the vector: what a compiler makes of the plain loop goes through
// memory, number by number, and takes three times as long.
PF_HD void gather(const double* column, const int32_t* index, Floats& to) {
#if defined(__AVX512F__)
  const __m512d low = _mm512_i32gather_pd(load<__m256i>(index), column, 8);
  const __m512d high = _mm512_i32gather_pd(load<__m256i>(index + 8), column, 8);
  const __m512d halves = _mm512_castpd256_pd512(_mm256_castps_pd(_mm512_cvtpd_ps(low)));
  to = (Floats)_mm512_insertf64x4(halves, _mm256_castps_pd(_mm512_cvtpd_ps(high)), 1);
#elif defined(__AVX2__)
  const __m256d low = _mm256_i32gather_pd(column, load<__m128i>(index), 8);
  const __m256d high = _mm256_i32gather_pd(column, load<__m128i>(index + 4), 8);
  to = (Floats)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(low)), _mm256_cvtpd_ps(high), 1);
#else
  for (int lane = 0; lane < lanes; ++lane) to[lane] = float(column[index[lane]]);
#endif
}
PF_HD void gather(const double* column, const int32_t* index, Doubles& to) {
#if defined(__AVX512F__)
  to = (Doubles)_mm512_i32gather_pd(load<__m256i>(index), column, 8);
#elif defined(__AVX2__)
  to = (Doubles)_mm256_i32gather_pd(column, load<__m128i>(index), 8);
#else
  for (int lane = 0; lane < lanes / 2; ++lane) to[lane] = column[index[lane]];
#endif
}

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
      permuted = job.groups.count <= width;
      if (!permuted) return;
      for (int o = 0; o < job.outputs; ++o) {
        for (int t = 0; t < terms; ++t) {
          Wide column[width] = {};
          for (int row = 0; row < job.groups.count; ++row) column[row] = at(row, o, t);
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
  PF_HD Wide at(int64_t row, int o, int t) const { return Wide(column(o, t)[row * step(t)]); }
};

template <class Format>
PF_HD void load_terms(const Block<Format>& block, int64_t i, typename Format::Pack* x) {
  for (int k = 0; k < block.inputs; ++k) x[k] = Format::load_pack(block.in[k] + i);
  for (int d = 0; d < block.draws; ++d) x[block.inputs + d] = Format::widen_normals(block.noise[d] + i);
}

// The same sums as mix_any, with row rows[i] of the table for element i.
template <class Format>
int mix_table(const Block<Format>& block, const Table<Format>& table, const int32_t* rows, int64_t count) {
  using Pack = typename Format::Pack;
  using Wide = typename Format::Wide;
  constexpr int width = Format::width;
  const int terms = table.terms, outputs = block.outputs;
  typename Format::Check check = {};
  uint64_t rest = 0;
  int64_t i = 0;
  for (; i + width <= count; i += width) {
    Pack x[max_inputs + max_draws];
    load_terms(block, i, x);
    int32_t of_weights[width], of_scales[width];
    for (int lane = 0; lane < width && !table.permuted; ++lane) {
      of_weights[lane] = rows[i + lane] * int32_t(table.job.weights_step);
      of_scales[lane] = rows[i + lane] * int32_t(table.job.scales_step);
    }
    for (int o = 0; o < outputs; ++o) {
      Pack sum = {};
      if constexpr (can_permute<Pack>) {
        if (table.permuted) {
          if (terms > 0) sum = x[0] * permute(table.columns[o][0], rows + i);
          for (int t = 1; t < terms; ++t) sum = sum + x[t] * permute(table.columns[o][t], rows + i);
          Format::template store_pack<false>(block.out[o] + i, sum, check);
          continue;
        }
      }
      for (int t = 0; t < terms; ++t) {
        Pack weight;
        gather(table.column(o, t), t < block.inputs ? of_weights : of_scales, weight);
        sum = t == 0 ? x[t] * weight : sum + x[t] * weight;
      }
      Format::template store_pack<false>(block.out[o] + i, sum, check);
    }
  }
  for (; i < count; ++i) {
    Wide x[max_inputs + max_draws];
    for (int k = 0; k < block.inputs; ++k) x[k] = Format::load_one(block.in[k] + i);
    for (int d = 0; d < block.draws; ++d) x[block.inputs + d] = Wide(block.noise[d][i]);
    for (int o = 0; o < outputs; ++o) {
      Wide sum = 0;
      for (int t = 0; t < terms; ++t) {
        const Wide product = x[t] * table.at(rows[i], o, t);
        sum = t == 0 ? product : sum + product;
      }
      Format::store_one(block.out[o] + i, sum, rest);
    }
  }
  return ((rest | any_lane(check)) & Format::sign) != 0;
}

}  // namespace pushforward::PF_ISA
