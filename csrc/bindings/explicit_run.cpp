// A run of an explicit pair whose field is a plain Python function: everything but the calls of that function.
//
// solvers/adaptive/loop.py and explicit.py say what it does; this is their common case without the interpreter.
#include <cstring>
#include <utility>
#include <vector>

#include "../cpu/runge_kutta.hpp"
#include "../cpu/step_control.hpp"
#include "exchange.hpp"
#include "module.hpp"
#include "runge_kutta.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

// A tensor like the state of the live samples, and where its elements are.
struct Rows {
  py::object tensor;
  char* address = nullptr;
};

View view(const py::object& tensor) {
  View found;
  if (!view_of(tensor.ptr(), found)) throw py::type_error("a plain tensor");
  return found;
}

Rows like(const py::object& tensor) {
  py::object made = empty_like(tensor.ptr());
  char* const address = view(made).address;
  return {std::move(made), address};
}

// Makes tensors like one, a stage each. Small ones share their memory and come from one call an attempt, as calls are
// what a small batch costs; large ones are made one by one, so that each is given back when nobody needs it.
class StageTensors {
 public:
  StageTensors(const py::object& one, size_t stages) : stages_(int64_t(stages)) {
    if (view(one).size * stages_ <= most_shared) split_ = py::module_::import("torch").attr("unsafe_split_with_sizes");
    resize(one);
  }

  // From now on like this one, of another number of rows.
  void resize(const py::object& one) {
    one_ = one;
    if (!split_) return;
    py::list shape(one.attr("shape"));
    const int64_t rows = py::cast<int64_t>(shape[0]);
    shape[0] = rows * stages_;
    all_ = one.attr("new_empty")(shape);
    sizes_ = py::list();
    for (int64_t s = 0; s < stages_; ++s) sizes_.append(rows);
    bytes_ = view(one).size * sizeof(double);
  }

  // Begin an attempt.
  void renew() {
    if (!split_) return;
    const Rows all = like(all_);
    address_ = all.address;
    made_ = split_(all.tensor, sizes_);
  }

  Rows at(size_t stage) const { return split_ ? Rows{made_[stage], address_ + stage * bytes_} : like(one_); }

 private:
  static constexpr int64_t most_shared = 1 << 15;  // numbers

  int64_t stages_;
  py::object one_, all_, split_;
  py::list sizes_;
  py::tuple made_;
  char* address_ = nullptr;
  size_t bytes_ = 0;
};

class ExplicitRun {
 public:
  // `stages`: (weights, node) of each stage that is evaluated; then the rows of the new state and of the one estimate.
  // `check(slope, x, times)` raises if a slope is not what it should be.
  ExplicitRun(const py::list& stages, const py::tuple& weights, const py::tuple& estimate, double rtol, double atol,
              py::object check)
      : check_(std::move(check)) {
    for (const py::handle item : stages) {
      const auto stage = py::cast<py::tuple>(item);
      const py::tuple row = stage[0];
      stages_.push_back(step_rows(py::make_tuple(row), row.size(), 0, 0, 0.0, 1.0));
      nodes_.push_back(as_double(py::object(stage[1]).ptr()));
    }
    end_ = step_rows(py::make_tuple(weights, estimate), weights.size(), 1, 0, rtol, atol);
  }

  // Integrate until every sample has ended; the number of attempts. `x`, `slope` and `times` are of the live samples;
  // `final` is like x of the whole batch, and gets the last states. `due(x, slopes, new)` is told of attempts that
  // passed a requested time, before anything moves.
  int64_t run(StepControl& control, const py::object& x, const py::object& slope, const py::object& times,
              const py::object& function, const py::object& final, const py::object& due) {
    const View state = view(x), whole = view(final);
    if (state.dtype != Dtype::float64 || whole.dtype != Dtype::float64) throw py::type_error("tensors of float64");
    if (control.size() == 0) return 0;
    row_size_ = state.size / control.size();
    threads_ = torch_threads();
    Rows now{x, state.address}, first = taken(slope, state), next;
    StageTensors states(x, stages_.size()), clocks(times, stages_.size());
    int64_t attempts = 0;
    while (control.size() > 0) {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      std::vector<Rows> slopes{first};
      control.propose(threads_);
      const Decision decision = attempt(control, now, states, clocks, function, slopes, next);
      ++attempts;
      if (decision.due) due(now.tensor, tensors(slopes), next.tensor);
      first = slopes.back();
      if (decision.rejected) restore(control, now, slopes.front(), next, first);
      now = std::move(next);
      control.move();
      if (!decision.ended) continue;
      leave(control, now, first, whole.address);
      states.resize(now.tensor);
      clocks.resize(times.attr("narrow")(0, 0, control.size()));
    }
    return attempts;
  }

  int64_t passes = 0;  // over memory, so far: for tests

 private:
  // Evaluate the stages, the new state and its error, and judge it.
  Decision attempt(StepControl& control, const Rows& now, StageTensors& states, StageTensors& clocks,
                   const py::object& function, std::vector<Rows>& slopes, Rows& next) {
    const View state = view(now.tensor);
    states.renew();
    clocks.renew();
    for (size_t s = 0; s < stages_.size(); ++s) {
      next = states.at(s);
      const Rows when = clocks.at(s);
      auto* const times = reinterpret_cast<double*>(when.address);
      for (int64_t row = 0; row < control.size(); ++row) {
        times[row] = control.t[row] + nodes_[s] * control.signed_size[row];
      }
      step(control, stages_[s], now, slopes, next);
      PyObject* const arguments[] = {next.tensor.ptr(), when.tensor.ptr()};
      auto slope = py::reinterpret_steal<py::object>(PyObject_Vectorcall(function.ptr(), arguments, 2, nullptr));
      if (!slope) throw py::error_already_set();
      slopes.push_back(taken(std::move(slope), state, next.tensor, when.tensor));
    }
    ratio_.resize(control.size());
    step(control, end_, now, slopes, next);
    return control.decide(ratio_.data(), int64_t(stages_.size()), threads_);
  }

  // Rows of a tableau for all live samples: a state in `out`, and error ratios if it has an estimate.
  void step(const StepControl& control, const StepRows& tableau, const Rows& now, const std::vector<Rows>& slopes,
            const Rows& out) {
    StepJob job{};
    job.dtype = Dtype::float64;
    job.rows = control.size();
    job.row_size = row_size_;
    job.tableau = tableau;
    job.x = now.address;
    for (size_t k = 0; k < slopes.size(); ++k) job.stage[k] = slopes[k].address;
    job.out = out.address;
    job.h = control.signed_size.data();
    job.h_step = 1;
    job.error = ratio_.data();
    run_steps(job);
    ++passes;
  }

  // A slope as the field returned it at `x`, checked; if it is not contiguous, a copy that is. It may be of a subclass.
  Rows taken(py::object slope, const View& state, const py::object& x = {}, const py::object& times = {}) {
    View found;
    const auto plain = [&] { return view_of(slope.ptr(), found) && found.matches(state); };
    if (!plain()) {
      if (x) check_(slope, x, times);
      slope = slope.attr("contiguous")();
      if (!plain()) {
        const py::object number = call(slope.ptr(), torch().data_ptr);
        if (!number) throw py::type_error("a tensor with an address");
        found.address = as_address(number.ptr());
      }
    }
    return {std::move(slope), found.address};
  }

  // Rejected samples keep their state and slope. What the field returned is not written to.
  // Two tensors of ours take turns, as the slopes before are in one of them.
  void restore(const StepControl& control, const Rows& now, const Rows& slope, const Rows& next, Rows& last) {
    std::swap(mixed_[0], mixed_[1]);
    if (!mixed_[0].tensor) mixed_[0] = like(next.tensor);
    const Rows& copy = mixed_[0];
    std::memcpy(copy.address, last.address, control.size() * row_bytes());
    restore_rows(copy.address, slope.address, control.accept.data(), control.size(), row_bytes());
    restore_rows(next.address, now.address, control.accept.data(), control.size(), row_bytes());
    last = copy;
  }

  // Take out the samples that have ended: their states go to their places in the whole batch.
  void leave(StepControl& control, Rows& now, Rows& slope, char* whole) {
    mixed_[0] = mixed_[1] = {};
    int64_t staying = 0;
    for (int64_t row = 0; row < control.size(); ++row) {
      if (control.ended[row] < 0) {
        ++staying;
      } else {
        std::memcpy(whole + control.samples[row] * row_bytes(), now.address + row * row_bytes(), row_bytes());
      }
    }
    if (staying) {
      const Rows rest = like(now.tensor.attr("narrow")(0, 0, staying)), slopes = like(rest.tensor);
      keep_rows(rest.address, now.address, control.ended, row_bytes());
      keep_rows(slopes.address, slope.address, control.ended, row_bytes());
      now = rest;
      slope = slopes;
    }
    control.leave();
  }

  static py::list tensors(const std::vector<Rows>& slopes) {
    py::list all;
    for (const Rows& slope : slopes) all.append(slope.tensor);
    return all;
  }

  size_t row_bytes() const { return size_t(row_size_) * sizeof(double); }

  Rows mixed_[2];  // slopes of accepted and of rejected samples
  std::vector<StepRows> stages_;
  std::vector<double> nodes_, ratio_;
  StepRows end_;
  py::object check_;
  int64_t row_size_ = 0;
  int threads_ = 1;
};

PF_BINDINGS(module) {
  module.def("has_views", &has_views);
  py::class_<ExplicitRun>(module, "ExplicitRun")
      .def(py::init<const py::list&, const py::tuple&, const py::tuple&, double, double, py::object>())
      .def("run", &ExplicitRun::run)
      .def_readonly("passes", &ExplicitRun::passes);
}

}  // namespace
}  // namespace pushforward
