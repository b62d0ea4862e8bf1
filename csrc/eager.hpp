// The short way of an eager call: the checks of kernels/arguments.py for the common case, made here, where a question
// to a tensor costs a third of what it costs in the interpreter.
#pragma once

#include <pybind11/pybind11.h>

#include "cpu/job.hpp"

namespace pushforward {

// Names and objects of torch, set at import; never released, as the interpreter may be gone before the module.
struct Torch {
  PyObject *tensor = nullptr, *dtypes = nullptr, *get_num_threads = nullptr, *empty_like = nullptr;
  PyObject *is_grad_enabled = nullptr;
  PyObject *data_ptr = nullptr, *dtype = nullptr, *is_cpu = nullptr, *shape = nullptr, *requires_grad = nullptr;
  PyObject *is_contiguous = nullptr, *numel = nullptr;
};
Torch& torch();
void set_torch(const pybind11::object& tensor, const pybind11::dict& dtypes, const pybind11::object& get_num_threads,
               const pybind11::object& empty_like, const pybind11::object& is_grad_enabled);

char* address_of(PyObject* tensor);
double as_double(PyObject* number);

// Run on as many threads as torch may use, without the interpreter if that pays.
int run_job(const Job& job);
// Decide which outputs go past the caches; false if an output partly overlaps another contiguous operand.
bool settle_outputs(Job& job);

// One output, no noise: the result, or None where the general path must decide (another layout or device, gradients,
// arguments of other kinds, mistakes).
pybind11::object combine_eager(pybind11::handle inputs, pybind11::handle weights, pybind11::handle out);

}  // namespace pushforward
