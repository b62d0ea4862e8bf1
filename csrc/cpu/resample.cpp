// The stages of resampling in their order, and the sums over blocks between them.
#include "resample.hpp"

#include <algorithm>
#include <cmath>
#include <memory>

#include "../core/resample.hpp"
#include "parallel.hpp"

namespace pushforward {
namespace {

template <class T>
T* allocate(std::unique_ptr<T[]>& owner, int64_t size) {
  owner.reset(new T[size_t(size)]);
  return owner.get();
}

// Replaces the numbers by the sums of those before them; returns the sum of all.
int64_t accumulate(int64_t* numbers, int64_t count) {
  int64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t number = numbers[i];
    numbers[i] = sum;
    sum += number;
  }
  return sum;
}

int64_t systematic_offset(const NoiseKey& key, int64_t row, int64_t total) {
  const uint64_t sample = key.samples ? uint64_t(key.samples[row]) : uint64_t(row);
  const generic::Draw draw = {uint32_t(key.seed), uint32_t(key.seed >> 32), key.purpose, key.step, key.stage,
                              key.attempt};
  const auto stream = generic::stream_of<generic::OneLane>(draw, uint32_t(sample), uint32_t(sample >> 32));
  const auto words = generic::words_of<generic::OneLane>(draw, stream, 0u);
  return generic::uniform_below(words.w[0], words.w[1], total);
}

}  // namespace

void run_resample(ResampleJob job, int threads) {
  if (job.rows == 0) return;
  const int64_t most = std::max(job.particles, job.count);
  const bool residual = job.scheme == Scheme::residual, copied = residual || job.scheme == Scheme::killing;
  const bool ordered = copied || job.scheme == Scheme::multinomial;
  const bool drawn = ordered || job.scheme == Scheme::stratified;
  job.scale = generic::power_of_two(generic::weight_bits(most));
  job.spacing_scale = generic::power_of_two(generic::spacing_bits(job.count));
  job.blocks = (job.particles + resample_block - 1) / resample_block;
  job.draw_blocks = (job.count + resample_block) / resample_block;  // of count + 1 spacings

  const int64_t units = job.rows * job.blocks, draw_units = job.rows * job.draw_blocks;
  std::unique_ptr<double[]> maxima;
  std::unique_ptr<int64_t[]> thresholds, numbers;
  job.thresholds = job.ancestors;
  job.threshold_step = job.count;
  job.block_maximum = allocate(maxima, units);
  int64_t* next = allocate(numbers, 5 * units + draw_units + 6 * job.rows);
  for (int64_t** array : {&job.block_total, &job.block_squares, &job.block_copies, &job.block_pool}) {
    *array = next;
    next += units;
  }
  job.block_gains = job.block_copies;  // no scheme has both
  job.block_place = next;
  next += units + job.rows;
  job.block_spacings = next;
  next += draw_units;
  for (int64_t** array : {&job.draws, &job.pool, &job.spacings, &job.shift, &job.offset}) {
    *array = next;
    next += job.rows;
  }
  // A thread for a stretch of work that takes at least 50 us.
  threads = int(std::min<int64_t>(threads, 1 + job.rows * most / (16 * resample_block)));
  const auto run = [&](ResampleStage stage, int64_t count) {
    const auto kernel = resample_stage_kernel();
    parallel_for(count, threads, [&](int64_t first, int64_t last) { kernel(job, stage, first, last); });
  };

  run(ResampleStage::maximum, units);
  for (int64_t row = 0; row < job.rows; ++row) {
    const double* block = job.block_maximum + row * job.blocks;
    double maximum = block[0];
    for (int64_t b = 1; b < job.blocks; ++b) maximum = block[b] > maximum || std::isnan(block[b]) ? block[b] : maximum;
    job.maximum[row] = maximum;
  }
  const auto each_valid_row = [&](auto body) {
    for (int64_t row = 0; row < job.rows; ++row) {
      if (std::isfinite(job.maximum[row])) body(row);
    }
  };
  run(ResampleStage::weigh, units);
  each_valid_row([&](int64_t row) {
    job.total[row] = accumulate(job.block_total + row * job.blocks, job.blocks);
    job.squares[row] = accumulate(job.block_squares + row * job.blocks, job.blocks);
    job.draws[row] = job.count;
    job.pool[row] = job.total[row];
    job.shift[row] = 0;
    job.offset[row] = systematic_offset(job.noise, row, job.total[row]);
  });
  if (copied) {
    run(ResampleStage::copies, units);
    each_valid_row([&](int64_t row) {
      job.draws[row] -= accumulate(job.block_copies + row * job.blocks, job.blocks);
      if (residual) job.shift[row] = generic::remainder_shift(job.draws[row], job.total[row]);
    });
    job.threshold_step = 0;
    each_valid_row([&](int64_t row) { job.threshold_step = std::max(job.threshold_step, job.draws[row]); });
    job.thresholds = allocate(thresholds, job.rows * job.threshold_step);
  }
  if (residual) {
    run(ResampleStage::pool, units);
    each_valid_row(
        [&](int64_t row) { job.pool[row] = accumulate(job.block_pool + row * job.blocks, job.blocks); });
  } else {
    job.block_pool = job.block_total;
  }
  if (job.scheme == Scheme::ssp) {
    run(ResampleStage::gains, units);
    each_valid_row([&](int64_t row) {  // from what happens to who waits at the beginning to who waits at the end
      int64_t* const gains = job.block_gains + row * job.blocks;
      int64_t later = 0;
      for (int64_t b = job.blocks - 1; b >= 0; --b) {
        const int64_t first = gains[b];
        gains[b] = later;
        if (first >= 0) later = first;
      }
    });
  }
  if (ordered) {
    run(ResampleStage::spacings, draw_units);
    each_valid_row([&](int64_t row) {
      job.spacings[row] = accumulate(job.block_spacings + row * job.draw_blocks, job.draw_blocks);
    });
  }
  if (drawn) {
    run(ResampleStage::draw, draw_units);
    run(ResampleStage::locate, units);
  }
  run(ResampleStage::spread, units);
}

}  // namespace pushforward
