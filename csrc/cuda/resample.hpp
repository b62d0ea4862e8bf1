// Resampling on a GPU, as plain data. Everything is contiguous on one device.
#pragma once

#include "../cpu/resample.hpp"
#include "gpu.hpp"

namespace pushforward {

constexpr int64_t gpu_resample_tile = 1024;  // numbers of a block

struct GpuResample {
  const void* log_weights;  // [rows, particles], double if `wide`, else float
  void* weights;            // the same
  bool wide;
  Scheme scheme;
  int64_t rows, particles, count;
  NoiseKey noise;  // ids of samples are on the device
  int64_t* ancestors;  // [rows, count]
  double* maximum;     // [rows]
  int64_t* total;      // [rows]
  int64_t* squares;    // [rows]
  int64_t* scratch;    // as many numbers as GpuResampleScratch(...).size
  void* stream;

  bool copied() const { return scheme == Scheme::residual || scheme == Scheme::killing; }
  bool ordered() const { return scheme == Scheme::multinomial || copied(); }
};

// Where what the kernels leave for each other lies in the scratch memory.
struct GpuResampleScratch {
  int64_t* cumulative;                     // [rows, particles]
  int64_t* children;                       // [rows, particles], of residual resampling, killing and SSP
  int64_t *tile_sums, *tile_squares;       // [rows, tiles]
  double* tile_maximum;                    // [rows, tiles]
  int64_t* tile_spacings;                  // [rows, tiles of count + 1 spacings], of sorted uniform numbers
  int64_t *draws, *pool, *spacings;        // [rows]: how many are drawn from what, with spacings of this sum
  int64_t* shift;                          // [rows]: of the remainders of residual resampling
  int64_t *quotient, *remainder, *offset;  // [rows]: of strata
  int64_t size;

  explicit GpuResampleScratch(const GpuResample& job) : size(0) {
    const auto take = [&](int64_t numbers) {
      int64_t* const address = job.scratch + (job.scratch ? size : 0);
      size += numbers;
      return address;
    };
    const auto tiles = [](int64_t numbers) { return (numbers + gpu_resample_tile - 1) / gpu_resample_tile; };
    const int64_t in_tiles = job.rows * tiles(job.particles);
    cumulative = take(job.rows * job.particles);
    children = take(job.copied() || job.scheme == Scheme::ssp ? job.rows * job.particles : 0);
    tile_sums = take(in_tiles);
    tile_squares = take(in_tiles);
    tile_maximum = reinterpret_cast<double*>(take(in_tiles));
    tile_spacings = take(job.ordered() ? job.rows * tiles(job.count + 1) : 0);
    for (int64_t** of_rows : {&draws, &pool, &spacings, &shift, &quotient, &remainder, &offset}) {
      *of_rows = take(job.rows);
    }
  }
};

PF_GPU_FUNCTION(run_resampling, GpuResample)

}  // namespace pushforward
