// Increments of a Brownian path at given times, as plain data: the program of a row, and what kernels read.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/brownian.hpp"
#include "isa.hpp"
#include "job.hpp"

namespace pushforward {

// A walk through the tree from left to right, with a stack of pieces whose top is the leftmost one.
enum class Walk : int {
  cut,   // replace the top by its two parts, the left one on top; takes two normals of `node`
  drop,  // forget the top
  take,  // append the top to the running increment
  copy,  // a part of the top, up to theta, less the part before; appended unless `drop`; takes normals as `cut` does
  emit,  // the running increment is the next result
};

struct WalkStep {
  Walk walk;
  bool dropped;           // copy
  uint32_t node;          // cut, copy: number of the node, 2^level + index
  int32_t cut;            // cut, copy: place among the program's cuts
  double first, rest;     // take, copy: shares of the running increment and of what is appended; 0, 1 if it is empty
  double before, within;  // copy: shares of what comes before and of the part, in the piece up to theta; 0, 1 if none
};

struct WalkProgram {
  std::vector<WalkStep> steps;
  std::vector<Cut> cuts;  // first those of the middles, one a level, which all programs of a job share
  int levels = -1;        // how many of them there are
};

struct BrownianJob {
  Dtype dtype;  // float32 or float64
  bool area;
  int levels;
  int64_t rows, row_size, times;  // times: at least two
  const double* time;             // [times][rows], fractions of the interval, not decreasing; [times][1]: shared
  bool shared;
  double span, shift;  // length of the interval; 1.5 * 2^52 quanta
  NoiseKey key;        // its step and stage are not read
  char *increments, *areas;  // [times - 1][rows][row_size]

  static constexpr int64_t chunk = 64;  // elements of a row that walk together
  int64_t chunks() const { return (row_size + chunk - 1) / chunk; }
};

// The program of a row.
void write_program(const BrownianJob& job, int64_t row, WalkProgram& program);

// Work on units [first, last), a unit being a chunk of a row, or of all rows where programs are shared.
PF_KERNEL(void, brownian_chunks, const BrownianJob& job, const WalkProgram& shared, int64_t first, int64_t last)

}  // namespace pushforward
