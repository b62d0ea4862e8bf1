// Resampling as stages over blocks of particles and blocks of spacings; between them, one number a block is summed.
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "job.hpp"

namespace pushforward {

// In the order of RESAMPLING_SCHEMES.
enum class Scheme : int { systematic, stratified, residual, multinomial, ssp, killing };

constexpr int64_t resample_block = 2048;  // particles, or random numbers, of a unit of work

struct ResampleJob {
  const void* log_weights;  // [rows, particles], double if `wide`, else float
  void* weights;            // the same
  bool wide;
  Scheme scheme;
  int64_t rows, particles, count;
  NoiseKey noise;
  int64_t* ancestors;  // [rows, count]
  double* maximum;     // [rows]
  int64_t* total;      // [rows]
  int64_t* squares;    // [rows]

  // Filled in by run_resample.
  double scale, spacing_scale;
  int64_t blocks, draw_blocks;  // of a row
  int64_t* thresholds;          // [rows, threshold_step]: `ancestors` where each block reads the places that it writes
  int64_t threshold_step;
  double* block_maximum;        // [rows, blocks]
  int64_t *block_total, *block_squares;  // [rows, blocks]; the totals of particles become cumulative, starting at 0
  int64_t *block_copies, *block_pool;    // the same, of schemes that make certain copies first: residual and killing
  int64_t* block_gains;  // [rows, blocks], of SSP: whether the particle that waits at the end of a block gets its child
  int64_t* block_place;                  // [rows, blocks + 1]: where the ancestors of a block begin
  int64_t* block_spacings;               // [rows, draw_blocks]
  int64_t *draws, *pool, *spacings;      // [rows]: how many are drawn from what, with spacings of this sum
  int64_t* shift;                        // [rows]: of the remainders
  int64_t* offset;                       // [rows]: of systematic resampling
};

// What a unit (row, block) does in each stage.
enum class ResampleStage : int {
  maximum,   // the block's maximum; NaN if it holds a NaN or +inf
  weigh,     // the sums of the integer weights and squares
  copies,    // residual, killing: the number of certain copies
  pool,      // residual: the sum of the remainders
  gains,     // SSP: whether the particle that waits at the beginning gets its child; -1 if it waits to the end
  spacings,  // the sum of the exponential spacings
  draw,      // thresholds
  locate,    // which thresholds belong to the block
  spread,    // ancestors and normalised weights
};

PF_KERNEL(void, resample_stage, const ResampleJob& job, ResampleStage stage, int64_t first, int64_t last)

void run_resample(ResampleJob job, int threads);

}  // namespace pushforward
