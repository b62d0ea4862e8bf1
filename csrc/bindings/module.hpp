// How a family of kernels adds its functions to the Python module, without a list that names them all.
#pragma once

#include <pybind11/pybind11.h>

namespace pushforward {

using Bindings = void (*)(pybind11::module_& module);

// Remembers a function that the module calls when it is imported.
struct AddBindings {
  explicit AddBindings(Bindings bindings);
};

}  // namespace pushforward

// Once in a file of csrc/bindings:  PF_BINDINGS(module) { module.def("name", &function); }
#define PF_BINDINGS(module)                                       \
  static void add_bindings(pybind11::module_& module);            \
  static const ::pushforward::AddBindings added(&add_bindings);   \
  static void add_bindings(pybind11::module_& module)
