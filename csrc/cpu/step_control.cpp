#include "step_control.hpp"

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "parallel.hpp"

namespace pushforward {
namespace {

constexpr double least_ratio = 1e-10, stretch = 1.01;
constexpr int64_t most_not_finite = 40, least_rows = 4096;
enum Status : int8_t { running = -1, success = 0, step_too_small = 2, not_finite_status = 3, too_many_steps = 4 };

// Sixteen units in the last place.
double least_step(double t) {
  const double size = std::fabs(t);
  return 16 * (std::nextafter(size, std::numeric_limits<double>::infinity()) - size);
}

// Single precision is plenty for the factor of a step size, and several times faster.
double log2_of(double x) { return double(::log2f(float(x))); }
double exp2_of(double x) { return double(::exp2f(float(x))); }
double power(double x, double exponent) { return double(::powf(float(x), float(exponent))); }

double clip(double x, double low, double high) { return x < low ? low : x > high ? high : x; }

template <class Value>
void compress(std::vector<Value>& values, const std::vector<int8_t>& ended) {
  size_t kept = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (ended[i] < 0) values[kept++] = values[i];
  }
  values.resize(kept);
}

}  // namespace

StepControl::StepControl(const ControlLimits& limits, int64_t count, const double* start, const double* end_of)
    : t(start, start + count),
      after(count),
      target(end_of, end_of + count),
      end(end_of, end_of + count),
      h(count),
      signed_size(count),
      next_output(end_of, end_of + count),
      last(count),
      before_last(count),
      samples(count),
      attempts(count),
      accepted(count),
      nfe(count),
      output(count, 1),
      not_finite(count),
      accept(count),
      rejected(count),
      arrives(count),
      ended(count, int8_t(running)),
      results{t, nfe, nfe, nfe, nfe},
      limits_(limits) {
  for (int64_t i = 0; i < count; ++i) samples[i] = i;
}

void StepControl::propose(int threads) {
  parallel_for(size(), size() < 2 * least_rows ? 1 : threads,
               [&](int64_t first, int64_t stop) { propose_rows(first, stop); });
}

void StepControl::propose_rows(int64_t first, int64_t stop) {
  for (int64_t i = first; i < stop; ++i) {
    const double way = std::fabs(target[i] - t[i]), wanted = h[i] < limits_.max_step ? h[i] : limits_.max_step;
    const bool near = wanted * stretch >= way;
    const double length = !near ? wanted : way > limits_.max_step ? 0.5 * way : way;
    arrives[i] = near && length == way;
    signed_size[i] = limits_.direction * length;
  }
}

Decision StepControl::decide(const double* ratio, int64_t evaluations, int threads) {
  std::atomic<int64_t> total[4] = {};
  parallel_for(size(), size() < 2 * least_rows ? 1 : threads, [&](int64_t first, int64_t stop) {
    const Decision part = decide_rows(ratio, evaluations, first, stop);
    total[0] += part.rejected;
    total[1] += part.ended;
    total[2] += part.reached;
    total[3] += part.due;
  });
  return {total[0], total[1], total[2], total[3]};
}

Decision StepControl::decide_rows(const double* ratio, int64_t evaluations, int64_t first, int64_t stop) {
  const ControlLimits& limits = limits_;
  const double way = limits.direction;
  const bool given = limits.min_step == limits.min_step, forced = given && limits.accept_at_min_step;
  Decision total{};
  for (int64_t i = first; i < stop; ++i) {
    const double r = ratio[i], length = std::fabs(signed_size[i]);
    const bool finite = std::isfinite(r);
    const bool pass = r <= 1.0 || (forced && finite && length <= limits.min_step);
    accept[i] = pass;
    ++attempts[i];
    nfe[i] += evaluations;
    if (pass) {
      const double passed = log2_of(clip(r, least_ratio, 1.0));
      const double of_ratios =
          limits.exponents[0] * passed + limits.exponents[1] * last[i] + limits.exponents[2] * before_last[i];
      double factor = clip(limits.safety * exp2_of(of_ratios), limits.min_factor, limits.max_factor);
      if (rejected[i] && factor > 1) factor = 1;
      double next = length * factor;
      const double wanted = h[i] < limits.max_step ? h[i] : limits.max_step;
      if (arrives[i] && wanted > next) next = wanted;
      h[i] = next;
      before_last[i] = last[i];
      last[i] = passed;
      rejected[i] = 0;
      not_finite[i] = 0;
      ++accepted[i];
      after[i] = arrives[i] ? target[i] : t[i] + signed_size[i];
      const bool there = after[i] == target[i];
      total.reached += there;
      total.due += way * next_output[i] <= way * after[i];
      ended[i] = there && after[i] == end[i] ? success : running;
    } else {
      h[i] = length * (finite ? clip(limits.safety * power(r, limits.shrink_exponent), limits.min_factor, limits.safety)
                              : 0.5);
      rejected[i] = 1;
      not_finite[i] = finite ? 0 : not_finite[i] + 1;
      after[i] = t[i];
      ++total.rejected;
      const double least = given ? limits.min_step : least_step(t[i]);
      const bool small = h[i] < least && !limits.accept_at_min_step;
      ended[i] = small ? (not_finite[i] > 0 ? not_finite_status : step_too_small)
                       : not_finite[i] >= most_not_finite ? not_finite_status : running;
    }
    if (forced && h[i] < limits.min_step) h[i] = limits.min_step;
    if (ended[i] < 0 && attempts[i] >= limits.max_steps) ended[i] = too_many_steps;
    total.ended += ended[i] >= 0;
  }
  return total;
}

void StepControl::move() { t.swap(after); }

void StepControl::leave() {
  for (int64_t i = 0; i < size(); ++i) {
    if (ended[i] < 0) continue;
    const int64_t sample = samples[i];
    results.t[sample] = t[i];
    results.status[sample] = ended[i];
    results.attempts[sample] = attempts[i];
    results.accepted[sample] = accepted[i];
    results.nfe[sample] = nfe[i];
  }
  for (auto* values : {&t, &after, &target, &end, &h, &signed_size, &next_output, &last, &before_last}) {
    compress(*values, ended);
  }
  for (auto* values : {&samples, &attempts, &accepted, &nfe, &output, &not_finite}) compress(*values, ended);
  for (auto* values : {&accept, &rejected, &arrives}) compress(*values, ended);
  ended.assign(t.size(), int8_t(running));
}

void restore_rows(char* out, const char* source, const int8_t* flags, int64_t rows, size_t row_bytes) {
  for (int64_t row = 0; row < rows; ++row) {
    if (!flags[row]) std::memcpy(out + row * row_bytes, source + row * row_bytes, row_bytes);
  }
}

void keep_rows(char* out, const char* source, const std::vector<int8_t>& ended, size_t row_bytes) {
  for (size_t row = 0; row < ended.size(); ++row, source += row_bytes) {
    if (ended[row] >= 0) continue;
    std::memcpy(out, source, row_bytes);
    out += row_bytes;
  }
}

}  // namespace pushforward
