// `rk_step` on a GPU: a block of threads reads every stage of up to 1024 elements once, and adds up the squares of
// their scaled errors in its own memory.
#include "runge_kutta.hpp"

#include "formats.hpp"
#include "ordered_sum.hpp"

namespace pushforward::PF_ISA {
namespace {

// What a block works on: `count` elements of each of `rows` rows, which lie one after the other.
struct Tile {
  int64_t row, first, block;  // its first row and element, and which block of the row it is
  int rows, count;

  PF_HD int elements() const { return rows * count; }
};

// Long rows are cut into blocks of 1024; of short ones a tile has as many as fit.
struct Tiles {
  int64_t rows, row_size, blocks;  // of a row
  int rows_in_tile;

  // Tiles of `several` elements a thread begin at a multiple of them, if that leaves a row.
  Tiles(int64_t rows, int64_t row_size, int several)
      : rows(rows), row_size(row_size), blocks(ceil_division(row_size, sum_block)), rows_in_tile(1) {
    if (blocks > 1) return;
    const int fit = sum_block / int(row_size);
    int step = 1;
    while (step * row_size % several != 0) step *= 2;
    rows_in_tile = fit < step ? fit : fit - fit % step;
  }
  // Whether all tiles begin and end at multiples of `several` elements.
  bool whole(int several) const {
    const int64_t tile = blocks > 1 ? row_size : rows_in_tile * row_size;
    return tile % several == 0 && rows * row_size % several == 0;
  }
  int64_t total() const { return blocks > 1 ? rows * blocks : ceil_division(rows, rows_in_tile); }
  PF_HD Tile at(int64_t index) const {
    if (blocks > 1) {
      const Split split(index, blocks);
      const int64_t column = split.rest * sum_block, left = row_size - column;
      const int count = left < sum_block ? int(left) : sum_block;
      return {split.quotient, split.quotient * row_size + column, split.rest, 1, count};
    }
    const int64_t row = index * rows_in_tile, left = rows - row;
    return {row, row * row_size, 0, left < rows_in_tile ? int(left) : rows_in_tile, int(row_size)};
  }
};

// R: rows of the tableau, of which there may be fewer. `each`: tiles have rows with step sizes of their own. `aligned`:
// all tiles are whole and all tensors begin at multiples of 16 bytes.
template <class Format, int R, bool each, bool aligned>
struct Step {
  using Stored = typename Format::Stored;
  using Wide = typename Format::Wide;
  static constexpr int N = Format::several, threads = sum_block / N, E = R - 1 < max_estimates ? R - 1 : max_estimates;
  static constexpr int phases = 7;  // coefficients, elements, and five for the sums
  static constexpr int together = R == 2 ? 4 : 2;  // stages that are read at once
  static constexpr double least = sizeof(Wide) == 8 ? 0x1p-1022 : 0x1p-126;
  static_assert(max_stages * R <= threads);

  struct Shared {
    alignas(16) double squares[E][sum_block];
    Wide coefficient[each ? 1 : max_stages][R];
  };
  using Local = Tile;

  Tiles tiles;
  int stages, estimates, rows;
  const Stored* x;
  const Stored* stage[max_stages];  // those with a weight
  double weight[max_stages][R];
  uint32_t used[max_stages];
  Stored* out;
  Stored* dense[R > 2 ? max_dense : 1];
  Wide rtol, atol;
  const double* h;
  int64_t h_step;
  double* error;
  double* sums;  // [rows][estimates][blocks], where rows have more than one block

  Step(const GpuStep& job, const Tiles& tiles) : tiles(tiles) {
    const StepRows& tableau = job.tableau;
    stages = 0;
    for (int s = 0; s < tableau.stages; ++s) {
      if (tableau.used[s] == 0) continue;
      stage[stages] = static_cast<const Stored*>(job.stage[s]);
      used[stages] = tableau.used[s];
      for (int r = 0; r < R; ++r) weight[stages][r] = r < tableau.rows ? tableau.weight[r][s] : 0;
      ++stages;
    }
    estimates = tableau.estimates;
    rows = tableau.rows;
    x = static_cast<const Stored*>(job.x);
    out = static_cast<Stored*>(job.out);
    for (int j = 0; j < rows - 1 - estimates; ++j) dense[j] = static_cast<Stored*>(job.dense[j]);
    rtol = Wide(tableau.rtol);
    atol = Wide(tableau.atol);
    h = job.h;
    h_step = job.h_step;
    error = job.error;
    sums = job.scratch;
  }

  // The i-th element of a thread: neighbours where they are read together, else as neighbouring threads read best.
  PF_HD static int element(int thread, int i) { return aligned ? thread * N + i : thread + i * threads; }

  PF_HD static void fetch(const Stored* from, int thread, int count, Stored (&to)[N]) {
    if constexpr (aligned) {
      read<true>(from + thread * N, N, to);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        to[i] = Stored{};
        if (element(thread, i) >= count) continue;
        to[i] = from[element(thread, i)];
        account<false, false>(from, sizeof(Stored));
      }
    }
  }

  PF_HD static void widen(const Stored (&stored)[N], Wide (&to)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = Format::widen(stored[i]);
  }

  // Returns what was stored in `value`.
  PF_HD static void put(Stored* to, int thread, int count, Wide (&value)[N]) {
    Stored stored[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      stored[i] = Format::narrow(value[i]);
      value[i] = Format::widen(stored[i]);
    }
    if constexpr (aligned) {
      write<true>(to + thread * N, N, stored);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (element(thread, i) >= count) continue;
        to[element(thread, i)] = stored[i];
        account<false, true>(to, sizeof(Stored));
      }
    }
  }

  PF_HD void make_coefficients(const Tile& tile, int thread, Shared& shared) const {
    if (thread >= stages * R) return;
    const int s = thread / R, r = thread % R;
    shared.coefficient[s][r] = step_coefficient<Wide>(scalar(h + tile.row * h_step), weight[s][r]);
  }

  // The terms of a few stages, which are all on their way from memory before the first one is needed.
  PF_HD void add_stages(const Tile& tile, int thread, int first, const double (&step)[N], const Shared& shared,
                        Wide (&sum)[R][N]) const {
    Stored stored[together][N] = {};
#pragma unroll
    for (int j = 0; j < together; ++j) {
      if (first + j < stages) fetch(stage[first + j] + tile.first, thread, tile.elements(), stored[j]);
    }
#pragma unroll
    for (int j = 0; j < together; ++j) {
      const int s = first + j;
      if (s >= stages) break;
      Wide k[N];
      widen(stored[j], k);
      const auto coefficient = [&](int r, int i) {
        if constexpr (each) {
          return step_coefficient<Wide>(step[i], weight[s][r]);
        } else {
          return shared.coefficient[s][r];
        }
      };
      add_stage(sum, k, coefficient, used[s]);
    }
  }

  PF_HD void make_elements(const Tile& tile, int thread, Shared& shared) const {
    const int count = tile.elements();
    if (element(thread, 0) >= count) return;
    double step[N] = {};  // of the elements' rows
    if constexpr (each) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const unsigned row = unsigned(element(thread, i)) / unsigned(tile.count);
        step[i] = element(thread, i) < count ? scalar(h + (tile.row + row) * h_step) : 0;
      }
    }
    Stored stored[N];
    Wide before[N], sum[R][N] = {};
    fetch(x + tile.first, thread, count, stored);
    widen(stored, before);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[0][i] = before[i];
    for (int first = 0; first < stages; first += together) add_stages(tile, thread, first, step, shared, sum);
    put(out + tile.first, thread, count, sum[0]);
#pragma unroll
    for (int r = 1; r < R; ++r) {
      if (r <= E && r <= estimates) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const Wide ratio = scaled_error(sum[r][i], before[i], sum[0][i], rtol, atol, Wide(least));
          if (aligned || element(thread, i) < count) {
            shared.squares[r - 1][element(thread, i)] = double(ratio) * double(ratio);
          }
        }
      } else if (r < rows) {
        put(dense[r - 1 - estimates] + tile.first, thread, count, sum[r]);
      }
    }
  }

  PF_HD void put_sum(const Tile& tile, int row, int e, double sum) const {
    const int64_t at = (tile.row + row) * estimates + e;
    if (tiles.blocks == 1) {
      store_scalar(error + at, error_norm(sum, tiles.row_size));
    } else {
      store_scalar(sums + at * tiles.blocks + tile.block, sum);
    }
  }

  template <int phase>
  PF_HD void run(Place place, Shared& shared, Tile& tile) const {
    if constexpr (phase == 0) {
      tile = tiles.at(place.block);
      if constexpr (!each) make_coefficients(tile, place.thread, shared);
    } else if constexpr (phase == 1) {
      make_elements(tile, place.thread, shared);
    } else {
      constexpr int left = sum_block >> 2 * (phase - 1);
#pragma unroll
      for (int e = 0; e < E; ++e) {
        if (e >= estimates) continue;
        double* const v = shared.squares[e];
        if constexpr (left > 1) {
          add_fours<left, threads>(v, tile.rows, tile.count, place.thread);
        } else {
#pragma unroll 1
          for (int row = place.thread; row < tile.rows; row += threads) {
            const auto term = [&](int i) { return v[row * tile.count + i]; };
            put_sum(tile, row, e, sum_of_four<1>(term, 0, tile.count));
          }
        }
      }
    }
  }
};

// Lists of `count` numbers, one after the other, to the sums of their blocks; or of one block to error norms.
struct SumBlocks {
  static constexpr int threads = 256, phases = 5;
  struct Shared {
    double v[threads];
  };
  using Local = int;  // how many numbers the block has

  const double* from;
  int64_t count, blocks, elements;  // of a list, of a list, of a row of the step
  double* to;

  template <int phase>
  PF_HD void run(Place place, Shared& shared, int& here) const {
    constexpr int left = threads >> 2 * phase;
    if constexpr (phase == 0) {
      const Split split(place.block, blocks);
      const int64_t first = split.rest * sum_block, rest = count - first;
      here = rest < sum_block ? int(rest) : sum_block;
      const double* const numbers = from + split.quotient * count + first;
      shared.v[place.thread] = sum_of_four<left>([&](int i) { return numbers[i]; }, place.thread, here);
    } else if constexpr (left > 1) {
      add_fours<left, threads>(shared.v, 1, threads, place.thread);
    } else if (place.thread == 0) {
      const double sum = sum_of_four<1>([&](int i) { return shared.v[i]; }, 0, threads);
      to[place.block] = blocks == 1 ? error_norm(sum, elements) : sum;
    }
  }
};

void sum_blocks(const GpuStep& job, int64_t count) {
  const int64_t lists = job.rows * job.tableau.estimates;
  double* from = job.scratch;
  while (count > 1) {
    const int64_t blocks = ceil_division(count, sum_block);
    double* const to = blocks == 1 ? job.error : from + lists * count;
    launch(lists * blocks, SumBlocks{from, count, blocks, job.row_size, to}, job.stream);
    from = to;
    count = blocks;
  }
}

template <class Format, int R>
void choose(const GpuStep& job) {
  constexpr int N = Format::several;
  const Tiles tiles(job.rows, job.row_size, N);
  bool aligned = tiles.whole(N) && is_aligned(job.x) && is_aligned(job.out);
  for (int s = 0; s < job.tableau.stages; ++s) aligned = aligned && is_aligned(job.stage[s]);
  for (int j = 0; j < job.tableau.rows - 1 - job.tableau.estimates; ++j) aligned = aligned && is_aligned(job.dense[j]);
  const auto start = [&](const auto& kernel) { launch(tiles.total(), kernel, job.stream); };
  if (tiles.rows_in_tile > 1 && job.h_step != 0) {
    aligned ? start(Step<Format, R, true, true>(job, tiles)) : start(Step<Format, R, true, false>(job, tiles));
  } else {
    aligned ? start(Step<Format, R, false, true>(job, tiles)) : start(Step<Format, R, false, false>(job, tiles));
  }
  sum_blocks(job, tiles.blocks);
}

}  // namespace

void run_step(const GpuStep& job) {
  with_format(job.dtype, [&](auto format) {
    using Format = decltype(format);
    // One estimate and no dense output is the common case, which takes far fewer registers.
    job.tableau.rows == 2 ? choose<Format, 2>(job) : choose<Format, max_step_rows>(job);
  });
}

}  // namespace pushforward::PF_ISA
