// StepControl for Python. Its arrays are views of the object's own memory; they are valid until `leave` is called.
#include "../cpu/step_control.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>

#include "module.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

template <class Value>
py::array view(std::vector<Value>& values, const py::object& owner) {
  return py::array(py::dtype::of<Value>(), {values.size()}, {sizeof(Value)}, values.data(), owner);
}

using Doubles = py::array_t<double, py::array::c_style>;

void restore(uintptr_t out, uintptr_t source, const StepControl& control, size_t row_bytes) {
  restore_rows(reinterpret_cast<char*>(out), reinterpret_cast<const char*>(source), control.accept.data(),
               control.size(), row_bytes);
}

PF_BINDINGS(module) {
  py::class_<StepControl> type(module, "StepControl");
  type.def(py::init([](double direction, const std::array<double, 3>& exponents, double shrink_exponent, double safety,
                       double min_factor, double max_factor, double max_step, double min_step, int64_t max_steps,
                       bool accept_at_min_step, const Doubles& start, const Doubles& end) {
             ControlLimits limits{direction, {},       shrink_exponent, safety,    min_factor,
                                  max_factor, max_step, min_step,        max_steps, accept_at_min_step};
             for (int i = 0; i < 3; ++i) limits.exponents[i] = exponents[i];
             if (start.ndim() != 1 || end.ndim() != 1 || start.size() != end.size()) {
               throw py::value_error("as many ends as starts");
             }
             return new StepControl(limits, start.size(), start.data(), end.data());
           }))
      .def("__len__", &StepControl::size)
      .def("propose", [](StepControl& self) { self.propose(torch_threads()); })
      .def("decide",
           [](StepControl& self, const Doubles& ratio, int64_t evaluations) {
             if (ratio.size() != self.size()) throw py::value_error("an error ratio for each sample");
             const Decision d = self.decide(ratio.data(), evaluations, torch_threads());
             return py::make_tuple(d.rejected, d.ended, d.reached, d.due);
           })
      .def("move", &StepControl::move)
      .def("leave", &StepControl::leave)
      .def_property_readonly("results",
                             [](const py::object& self) {
                               Results& all = self.cast<StepControl&>().results;
                               return py::make_tuple(view(all.t, self), view(all.status, self), view(all.attempts, self),
                                                     view(all.accepted, self), view(all.nfe, self));
                             })
      .def("restore", [](const StepControl& self, uintptr_t out, uintptr_t source, size_t row_bytes) {
        restore(out, source, self, row_bytes);
      });
#define PF_VIEW(name)                                                                                       \
  type.def_property_readonly(#name, [](const py::object& self) {                                            \
    return view(self.cast<StepControl&>().name, self);                                                      \
  });
  PF_VIEW(t)
  PF_VIEW(after)
  PF_VIEW(target)
  PF_VIEW(end)
  PF_VIEW(h)
  PF_VIEW(signed_size)
  PF_VIEW(next_output)
  PF_VIEW(samples)
  PF_VIEW(attempts)
  PF_VIEW(accepted)
  PF_VIEW(nfe)
  PF_VIEW(output)
  PF_VIEW(accept)
  PF_VIEW(ended)
#undef PF_VIEW
}

}  // namespace
}  // namespace pushforward
