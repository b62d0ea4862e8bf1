// Step sizes of an adaptive run, one for each sample that is still on its way.
//
// solvers/adaptive/control.py has the same class in NumPy, and says what every number means.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pushforward {

struct ControlLimits {
  double direction;                     // 1 or -1
  double exponents[3];                  // of the error ratios of the last three accepted steps
  double shrink_exponent;               // of the ratio of a rejected step
  double safety, min_factor, max_factor;
  double max_step, min_step;            // min_step is NaN if nobody gave one
  int64_t max_steps;
  bool accept_at_min_step;
};

struct Decision {
  int64_t rejected, ended, reached, due;
};

// How the samples of the whole batch ended, filled in as they leave.
struct Results {
  std::vector<double> t;
  std::vector<int64_t> status, attempts, accepted, nfe;
};

class StepControl {
 public:
  StepControl(const ControlLimits& limits, int64_t count, const double* start, const double* end);

  int64_t size() const { return int64_t(t.size()); }
  // Fill in `signed_size` and `arrives`: how far the next attempts go.
  void propose(int threads);
  // Judge the attempts by their error ratios: fill in `accept`, `after`, `ended`, and choose the next `h`.
  Decision decide(const double* ratio, int64_t evaluations, int threads);
  // Times become `after`.
  void move();
  // Write down the results of the samples whose `ended` is not negative, and forget them.
  void leave();

  std::vector<double> t, after, target, end, h, signed_size, next_output;
  std::vector<double> last, before_last;  // binary logarithms of the error ratios of the accepted steps before
  std::vector<int64_t> samples, attempts, accepted, nfe, output, not_finite;
  std::vector<int8_t> accept, rejected, arrives, ended;
  Results results;

 private:
  void propose_rows(int64_t first, int64_t stop);
  Decision decide_rows(const double* ratio, int64_t evaluations, int64_t first, int64_t stop);
  ControlLimits limits_;
};

// For each row whose flag is 0: out[row] = source[row].
void restore_rows(char* out, const char* source, const int8_t* flags, int64_t rows, size_t row_bytes);

// The rows whose `ended` is negative, one after the other.
void keep_rows(char* out, const char* source, const std::vector<int8_t>& ended, size_t row_bytes);

}  // namespace pushforward
