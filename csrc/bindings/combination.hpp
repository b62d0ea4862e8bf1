// A combination bound to coefficients and buffers.
#pragma once

#include <memory>
#include <tuple>
#include <vector>

#include "tensors.hpp"

namespace pushforward {

// The job and what it points to. Not copied: the job holds addresses of the arrays beside it.
struct Bound {
  Job job;
  double weights[max_outputs * max_inputs];
  double scales[max_outputs * max_draws];
  std::vector<int64_t> strides;
  int missing[max_inputs];  // inputs that come with each call
  int missing_count = 0;

  Bound() = default;
  Bound(const Bound&) = delete;

  // The common case, with all its checks: contiguous CPU tensors of one dtype and shape, coefficients as (rows of)
  // numbers, noise as `Noise`. False where the general path must decide: other layouts, devices or arguments, gradients,
  // mistakes. `outs` is None (then filled in: new tensors), a tensor, or a row of them; `single` tells whether one row
  // of coefficients was given. With `prepared`, inputs may be None, and gradients are the caller's business.
  bool common(py::handle inputs, py::handle weights, py::object& outs, py::handle noise, py::handle scale,
              bool prepared, bool& single);

  // The coefficients of the common case alone, (rows of) numbers: those of `inputs` tensors; and of `draws` normals,
  // given as a list (`many`) or as one.
  bool read_weights(py::handle rows, Py_ssize_t inputs, bool& single);
  bool read_scale(py::handle rows, int draws, bool single, bool many);

  // Decide which outputs go past the caches; false if an output partly overlaps another contiguous operand.
  static bool settle_outputs(Job& job);

 private:
  void count(Py_ssize_t inputs, Py_ssize_t outputs);
  bool noise_of(py::handle noise, py::handle scale, bool single, const Like& like);
};

// The keys of the normals for tensors like these; false where the general path must decide.
bool read_noise(Job& job, py::handle noise, const Like& like);

// How the elements of tensors like these are numbered; false if there are too many.
bool split_rows(Job& job, const Like& like);

// Run on as many threads as torch may use, without the interpreter if that pays; returns 1 if an output is NaN or infinite.
int run_job(const Job& job);

// What `prepare` returns.
class Combination {
 public:
  // The general case, checked in Python. `weights` and `scales`: nested rows of floats, or the address of float64
  // numbers for every row of a table. `noises`: (seed, purpose, step, stage, attempt, address of the ids or 0). None
  // among the addresses of inputs stands for a tensor that comes with the call. `strides`, of all operands, is None if
  // they are contiguous and there are no groups. `groups`: address of the int64 numbers (0: the sample's own), whose
  // strides come last among the strides, and the number of rows of the tables. `keep` is kept alive.
  Combination(int dtype, const std::vector<int64_t>& shape, const py::sequence& inputs, const py::sequence& outputs,
              const py::object& strides, const py::object& weights, const py::sequence& noises,
              const py::object& scales, const std::tuple<uintptr_t, int64_t>& groups, py::object keep);
  Combination() = default;

  int run(const py::args& tensors) const;

  Bound bound;
  py::object keep;

 private:
  int64_t read_rows(const py::object& rows, int width, double* storage, const double*& used);
};

// `combine` and `prepare` for the common case; None where the general path must decide.
py::object combine_eager(py::handle inputs, py::handle weights, py::object out, py::handle noise, py::handle scale);
std::unique_ptr<Combination> prepare_eager(py::handle inputs, py::handle weights, py::object outs, py::handle noise,
                                           py::handle scale);

}  // namespace pushforward
