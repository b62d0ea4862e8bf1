#include "tensors.hpp"

namespace pushforward {

namespace {
Torch names;
}

const Torch& torch() { return names; }

void set_torch(const py::object& tensor, const py::dict& dtypes, const py::object& get_num_threads,
               const py::object& empty_like, const py::object& is_grad_enabled, const py::object& noise,
               const py::object& count_modes, const py::object& forced) {
  names.tensor = tensor.inc_ref().ptr();
  names.dtypes = dtypes.inc_ref().ptr();
  names.get_num_threads = get_num_threads.inc_ref().ptr();
  names.empty_like = empty_like.inc_ref().ptr();
  names.is_grad_enabled = is_grad_enabled.inc_ref().ptr();
  names.noise = noise.inc_ref().ptr();
  names.count_modes = count_modes.inc_ref().ptr();
  names.forced = forced.inc_ref().ptr();
  names.data_ptr = PyUnicode_InternFromString("data_ptr");
  names.dtype = PyUnicode_InternFromString("dtype");
  names.is_cpu = PyUnicode_InternFromString("is_cpu");
  names.shape = PyUnicode_InternFromString("shape");
  names.requires_grad = PyUnicode_InternFromString("requires_grad");
  names.is_contiguous = PyUnicode_InternFromString("is_contiguous");
  names.seed = PyUnicode_InternFromString("seed");
  names.draw = PyUnicode_InternFromString("draw");
  names.samples = PyUnicode_InternFromString("samples");
}

int torch_threads() {
  PyObject* number = PyObject_CallNoArgs(names.get_num_threads);
  if (!number) throw py::error_already_set();
  const int threads = int(PyLong_AsLong(number));
  Py_DECREF(number);
  return threads;
}

py::object empty_like(PyObject* tensor) {
  PyObject* made = PyObject_CallOneArg(names.empty_like, tensor);
  if (!made) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

bool records_gradients() {
  const auto enabled = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(names.is_grad_enabled));
  if (!enabled) throw py::error_already_set();
  return enabled.ptr() != Py_False;
}

bool may_run() {
  PyObject* forced = nullptr;
  if (PyContextVar_Get(names.forced, nullptr, &forced) < 0) throw py::error_already_set();
  const bool ours = !forced || forced == Py_None || PyUnicode_CompareWithASCIIString(forced, "native") == 0;
  Py_XDECREF(forced);
  if (!ours) return false;
  const auto modes = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(names.count_modes));
  if (!modes) throw py::error_already_set();
  return PyLong_AsLong(modes.ptr()) == 0;
}

py::object ask(PyObject* object, PyObject* name) {
  PyObject* answer = PyObject_GetAttr(object, name);
  if (!answer) PyErr_Clear();
  return py::reinterpret_steal<py::object>(answer);
}

py::object call(PyObject* object, PyObject* name) {
  PyObject* answer = PyObject_CallMethodNoArgs(object, name);
  if (!answer) PyErr_Clear();
  return py::reinterpret_steal<py::object>(answer);
}

char* as_address(PyObject* number) {
  void* address = PyLong_AsVoidPtr(number);
  if (!address && PyErr_Occurred()) throw py::error_already_set();
  return static_cast<char*>(address);
}

double as_double(PyObject* number) {
  const double value = PyFloat_AsDouble(number);
  if (value == -1.0 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

bool is_number(PyObject* object) { return PyFloat_Check(object) || PyLong_Check(object); }

bool is_row(PyObject* object) { return PyList_CheckExact(object) || PyTuple_CheckExact(object); }

bool Like::take(PyObject* tensor, Operand& operand) {
  if (reinterpret_cast<PyObject*>(Py_TYPE(tensor)) != names.tensor) return false;
  const py::object its_dtype = ask(tensor, names.dtype), its_shape = ask(tensor, names.shape);
  if (!its_dtype || !its_shape) return false;
  if (!dtype) {
    dtype = its_dtype;
    shape = its_shape;
  } else if (its_dtype.ptr() != dtype.ptr() || PyObject_RichCompareBool(its_shape.ptr(), shape.ptr(), Py_EQ) != 1) {
    return false;
  }
  if (ask(tensor, names.is_cpu).ptr() != Py_True || call(tensor, names.is_contiguous).ptr() != Py_True) return false;
  if (refuse_gradients && ask(tensor, names.requires_grad).ptr() != Py_False && records_gradients()) return false;
  const py::object address = call(tensor, names.data_ptr);  // refused within torch.func transforms
  if (!address) return false;
  operand.address = static_cast<char*>(PyLong_AsVoidPtr(address.ptr()));
  operand.contiguous = true;
  if (operand.address) return true;
  for (int d = 0; d < dims(); ++d) {
    if (extent(d) == 0) return true;
  }
  return false;  // within torch.func.functionalize: elements, but no memory of its own
}

}  // namespace pushforward
