// An attempt at a step of an explicit pair whose field is a plain Python function: everything between two of its calls.
//
// solvers/adaptive/explicit.py and loop.py say what it does; this is their common case without the interpreter.
#include <vector>

#include "../cpu/runge_kutta.hpp"
#include "../cpu/step_control.hpp"
#include "exchange.hpp"
#include "module.hpp"
#include "runge_kutta.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

class Attempts {
 public:
  // `stages`: (weights, node) of each stage that is evaluated; then the rows of the new state and of the one estimate.
  // `check(slope, x, times)` raises if a slope is not what it should be.
  Attempts(const py::list& stages, const py::tuple& weights, const py::tuple& estimate, double rtol, double atol,
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

  // New states, slopes of all stages, and how many samples were rejected, ended, reached a target, passed a requested
  // time. Rows of rejected samples are as before, in the new states and in the last slope. `times` is like times [b].
  py::tuple run(StepControl& control, const py::object& x, const py::object& slope, const py::object& times,
                const py::object& function) {
    View state;
    if (!view_of(x.ptr(), state) || state.dtype != Dtype::float64) throw py::type_error("a plain float64 tensor");
    control.propose(torch_threads());
    const int64_t rows = control.size(), row_size = rows ? state.size / rows : 0;
    const auto job_of = [&](const StepRows& tableau) {
      StepJob job{};
      job.dtype = Dtype::float64;
      job.rows = rows;
      job.row_size = row_size;
      job.tableau = tableau;
      job.x = state.address;
      job.h = control.signed_size.data();
      job.h_step = 1;
      return job;
    };
    py::list slopes;
    std::vector<const char*> addresses;
    const py::object first = plain(slope, state) ? slope : py::object(slope.attr("contiguous")());
    slopes.append(first);
    addresses.push_back(address(first, state));
    py::object fresh;
    char* new_state = nullptr;
    for (size_t s = 0; s < stages_.size(); ++s) {
      fresh = like(x);
      const py::object when = like(times);
      View out, clock;
      if (!view_of(fresh.ptr(), out) || !view_of(when.ptr(), clock)) throw py::type_error("a plain tensor");
      new_state = out.address;
      StepJob job = job_of(stages_[s]);
      for (size_t k = 0; k < addresses.size(); ++k) job.stage[k] = addresses[k];
      job.out = out.address;
      auto* clocks = reinterpret_cast<double*>(clock.address);
      for (int64_t row = 0; row < rows; ++row) clocks[row] = control.t[row] + nodes_[s] * control.signed_size[row];
      run_steps(job);
      ++passes;
      PyObject* const arguments[] = {fresh.ptr(), when.ptr()};
      PyObject* const answer = PyObject_Vectorcall(function.ptr(), arguments, 2, nullptr);
      if (!answer) throw py::error_already_set();
      py::object given = py::reinterpret_steal<py::object>(answer);
      if (!plain(given, state)) {
        check_(given, fresh, when);
        given = given.attr("contiguous")();
      }
      addresses.push_back(address(given, state));
      slopes.append(given);
    }
    StepJob job = job_of(end_);
    for (size_t k = 0; k < addresses.size(); ++k) job.stage[k] = addresses[k];
    job.out = new_state;
    ratio_.resize(rows);
    job.error = ratio_.data();
    run_steps(job);
    ++passes;
    const Decision decision = control.decide(ratio_.data(), int64_t(stages_.size()), torch_threads());
    if (decision.rejected && row_size) {
      const size_t bytes = size_t(row_size) * sizeof(double);
      const py::object last = py::object(slopes[slopes.size() - 1]).attr("clone")();
      restore_rows(new_state, state.address, control.accept.data(), rows, bytes);
      restore_rows(const_cast<char*>(address(last, state)), addresses[0], control.accept.data(), rows, bytes);
      return py::make_tuple(fresh, slopes, last, decision.rejected, decision.ended, decision.reached, decision.due);
    }
    return py::make_tuple(fresh, slopes, slopes[slopes.size() - 1], decision.rejected, decision.ended,
                          decision.reached, decision.due);
  }

  int64_t passes = 0;  // over memory, so far: for tests

 private:
  static py::object like(const py::object& tensor) {
    PyObject* const arguments[] = {tensor.ptr()};
    PyObject* const made = PyObject_Vectorcall(torch().empty_like, arguments, 1, nullptr);
    if (!made) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(made);
  }

  static bool plain(const py::object& tensor, const View& state) {
    View view;
    return view_of(tensor.ptr(), view) && view.matches(state);
  }

  // Of a contiguous tensor like the state; it may be of a subclass.
  static const char* address(const py::object& tensor, const View& state) {
    View view;
    if (view_of(tensor.ptr(), view) && view.matches(state)) return view.address;
    const py::object number = call(tensor.ptr(), torch().data_ptr);
    if (!number) throw py::type_error("a tensor with an address");
    return as_address(number.ptr());
  }

  std::vector<StepRows> stages_;
  std::vector<double> nodes_, ratio_;
  StepRows end_;
  py::object check_;
};

PF_BINDINGS(module) {
  module.def("has_views", &has_views);
  py::class_<Attempts>(module, "Attempts")
      .def(py::init<const py::list&, const py::tuple&, const py::tuple&, double, double, py::object>())
      .def("run", &Attempts::run)
      .def_readonly("passes", &Attempts::passes);
}

}  // namespace
}  // namespace pushforward
