#include "weights.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../core/exponential.hpp"
#include "parallel.hpp"

namespace pushforward {
namespace {

constexpr int64_t block = 4096;  // particles
constexpr int64_t thread_particles = 1 << 14;  // below, another thread costs more than it brings

struct Partial {
  double highest, sum, squares;
};

}  // namespace

void reweigh(const WeightsJob& job, int threads) {
  const double dead = -std::numeric_limits<double>::infinity();
  const int64_t blocks = (job.particles + block - 1) / block;
  threads = int(std::min<int64_t>(threads, 1 + job.rows * job.particles / thread_particles));
  std::vector<Partial> partials(size_t(job.rows * blocks));
  const auto each = [&](auto&& body) {
    parallel_for(job.rows * blocks, threads, [&](int64_t first, int64_t last) {
      for (int64_t unit = first; unit < last; ++unit) {
        const int64_t row = unit / blocks, from = unit % blocks * block;
        const int64_t begin = row * job.particles + from, count = std::min(block, job.particles - from);
        body(row, begin, count, partials[size_t(unit)]);
      }
    });
  };
  each([&](int64_t row, int64_t begin, int64_t count, Partial& partial) {
    double highest = dead;
    bool number = true;
    const double* weight = job.log_weights + (job.same ? row : begin);
    for (int64_t i = begin; i < begin + count; ++i) {
      double l = weight[job.same ? 0 : i - begin] + (job.level[i] - job.before[i]);
      if (job.correction) l += job.correction[i];
      l = job.before[i] == dead ? dead : l;
      job.out[i] = l;
      highest = l > highest ? l : highest;
      number &= l == l;
    }
    partial.highest = number ? highest : std::numeric_limits<double>::quiet_NaN();
  });
  for (int64_t row = 0; row < job.rows; ++row) {
    double highest = dead;
    bool number = true;
    for (int64_t b = row * blocks; b < (row + 1) * blocks; ++b) {
      highest = std::max(highest, partials[size_t(b)].highest);
      number &= !std::isnan(partials[size_t(b)].highest);
    }
    job.highest[row] = number ? highest : std::numeric_limits<double>::quiet_NaN();
  }
  each([&](int64_t row, int64_t begin, int64_t count, Partial& partial) {
    const double highest = job.highest[row];
    partial.sum = partial.squares = 0;
    for (int64_t i = begin; i < begin + count; ++i) {
      const double w = PF_ISA::exponential<PF_ISA::OneDouble>(job.out[i] - highest);
      partial.sum += w;
      partial.squares += w * w;
    }
  });
  for (int64_t row = 0; row < job.rows; ++row) {
    job.sum[row] = job.squares[row] = 0;
    for (int64_t b = row * blocks; b < (row + 1) * blocks; ++b) {
      job.sum[row] += partials[size_t(b)].sum;
      job.squares[row] += partials[size_t(b)].squares;
    }
  }
  each([&](int64_t row, int64_t begin, int64_t count, Partial&) {
    const double total = job.highest[row] + std::log(job.sum[row]);
    for (int64_t i = begin; i < begin + count; ++i) job.out[i] -= total;
  });
}

}  // namespace pushforward
