// Tensors as the interpreter shows them: the module asks them for their properties and addresses by name, and so need
// not be built against torch.
#pragma once

#include <pybind11/pybind11.h>

#include "../cpu/job.hpp"

namespace pushforward {

namespace py = pybind11;

// Names and objects of torch, set at import; never released, as the interpreter may be gone before the module.
struct Torch {
  PyObject *tensor, *dtypes, *get_num_threads, *empty_like, *is_grad_enabled;
  PyObject *data_ptr, *dtype, *is_cpu, *shape, *requires_grad, *is_contiguous, *seed, *draw, *samples, *noise;
  PyObject *count_modes, *forced;
};
const Torch& torch();
void set_torch(const py::object& tensor, const py::dict& dtypes, const py::object& get_num_threads,
               const py::object& empty_like, const py::object& is_grad_enabled, const py::object& noise,
               const py::object& count_modes, const py::object& forced);

// torch.get_num_threads(); needs the interpreter.
int torch_threads();

// torch.empty_like(tensor).
py::object empty_like(PyObject* tensor);

// torch.is_grad_enabled().
bool records_gradients();

// Whether this backend may run now: no other one is forced, and no mode of dispatch wants to see an operator.
bool may_run();

// An attribute, or the result of a method without arguments; null, without an error, if there is none.
py::object ask(PyObject* object, PyObject* name);
py::object call(PyObject* object, PyObject* name);

char* as_address(PyObject* number);
double as_double(PyObject* number);
bool is_number(PyObject* object);
bool is_row(PyObject* object);  // a list or tuple

// What all operands must share, taken from the first one.
struct Like {
  py::object dtype, shape;
  bool refuse_gradients = true;

  // Fill in the operand; false if the tensor is not a plain contiguous one on the CPU with this dtype and shape, or if
  // autograd is recording it.
  bool take(PyObject* tensor, Operand& operand);
  int dims() const { return int(PyTuple_GET_SIZE(shape.ptr())); }
  int64_t extent(int d) const { return PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), d)); }
};

}  // namespace pushforward
