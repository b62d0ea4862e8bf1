// Log-weights of particles, updated and normalised.
#pragma once

#include <cstdint>

namespace pushforward {

struct WeightsJob {
  const double* log_weights;  // [rows, particles], like all that follow; or [rows] if they are the same for all
  bool same;
  const double* before;
  const double* level;
  const double* correction;  // or null
  double* out;
  double* highest;  // [rows]: largest updated log-weight
  double* sum;      // [rows]: sum of exp(l - highest)
  double* squares;  // [rows]: sum of exp(l - highest)^2
  int64_t rows, particles;
};

// l = log_weights + (level - before) + correction, or -inf where `before` is; out = l - log sum exp(l). The sums are
// formed block by block, so that they do not depend on the number of threads. Where `highest` is not finite, the rest
// of the row is unspecified.
void reweigh(const WeightsJob& job, int threads);

}  // namespace pushforward
