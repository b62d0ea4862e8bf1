#include "eager.hpp"

#include "cpu/parallel.hpp"

namespace py = pybind11;

namespace pushforward {

Torch& torch() {
  static Torch names;
  return names;
}

void set_torch(const py::object& tensor, const py::dict& dtypes, const py::object& get_num_threads,
               const py::object& empty_like, const py::object& is_grad_enabled) {
  Torch& t = torch();
  t.tensor = tensor.inc_ref().ptr();
  t.dtypes = dtypes.inc_ref().ptr();
  t.get_num_threads = get_num_threads.inc_ref().ptr();
  t.empty_like = empty_like.inc_ref().ptr();
  t.is_grad_enabled = is_grad_enabled.inc_ref().ptr();
  t.data_ptr = PyUnicode_InternFromString("data_ptr");
  t.dtype = PyUnicode_InternFromString("dtype");
  t.is_cpu = PyUnicode_InternFromString("is_cpu");
  t.shape = PyUnicode_InternFromString("shape");
  t.requires_grad = PyUnicode_InternFromString("requires_grad");
  t.is_contiguous = PyUnicode_InternFromString("is_contiguous");
  t.numel = PyUnicode_InternFromString("numel");
}

char* address_of(PyObject* tensor) {
  PyObject* number = PyObject_CallMethodNoArgs(tensor, torch().data_ptr);
  if (!number) throw py::error_already_set();
  char* address = static_cast<char*>(PyLong_AsVoidPtr(number));
  Py_DECREF(number);
  return address;
}

double as_double(PyObject* number) {
  const double value = PyFloat_AsDouble(number);
  if (value == -1.0 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

// Above this many bytes, outputs are written past the caches: about where the operands of a pass outgrow them.
constexpr int64_t past_cache_bytes = int64_t(32) << 20;

bool settle_outputs(Job& job) {
  const int64_t bytes = job.size() * element_size(job.dtype);
  const bool large = bytes * (job.inputs + job.outputs) > past_cache_bytes;
  auto apart = [&](const Operand& a, const Operand& b) {
    return !a.contiguous || !b.contiguous || a.address + bytes <= b.address || b.address + bytes <= a.address;
  };
  for (int o = 0; o < job.outputs; ++o) {
    const Operand& out = job.out[o];
    bool fresh = true;  // an output that is also an input was just read: its lines are there to be written
    for (int k = 0; k < job.inputs; ++k) {
      if (apart(out, job.in[k])) continue;
      if (job.in[k].address != out.address) return false;
      fresh = false;
    }
    for (int other = 0; other < o; ++other) {
      if (!apart(out, job.out[other])) return false;
    }
    job.past_cache[o] = large && fresh && out.contiguous;
  }
  return true;
}

int run_job(const Job& job) {
  // Below this size a second thread does not pay, and neither does releasing the interpreter.
  if (job.size() < 4096) return run_parallel(job, 1);
  PyObject* number = PyObject_CallNoArgs(torch().get_num_threads);
  if (!number) throw py::error_already_set();
  const int threads = int(PyLong_AsLong(number));
  Py_DECREF(number);
  if (useful_threads(job, threads) <= 1) return run_parallel(job, 1);
  py::gil_scoped_release release;
  return run_parallel(job, threads);
}

namespace {

// Attribute of a tensor; a null object (and no error) if there is none.
py::object ask(PyObject* tensor, PyObject* name) {
  PyObject* answer = PyObject_GetAttr(tensor, name);
  if (!answer) PyErr_Clear();
  return py::reinterpret_steal<py::object>(answer);
}

py::object call(PyObject* tensor, PyObject* name) {
  PyObject* answer = PyObject_CallMethodNoArgs(tensor, name);
  if (!answer) PyErr_Clear();
  return py::reinterpret_steal<py::object>(answer);
}

bool grad_enabled() {
  const auto answer = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(torch().is_grad_enabled));
  return answer.ptr() != Py_False;
}

// What all operands must share, taken from the first.
struct Like {
  py::object dtype, shape;

  // Fills in the operand; false if the tensor is not a plain contiguous one on the CPU with this dtype and shape.
  bool take(PyObject* tensor, Operand& operand) {
    const Torch& t = torch();
    if (reinterpret_cast<PyObject*>(Py_TYPE(tensor)) != t.tensor) return false;
    const py::object its_dtype = ask(tensor, t.dtype), its_shape = ask(tensor, t.shape);
    if (!its_dtype || !its_shape) return false;
    if (!dtype) {
      dtype = its_dtype;
      shape = its_shape;
    } else if (its_dtype.ptr() != dtype.ptr() || PyObject_RichCompareBool(its_shape.ptr(), shape.ptr(), Py_EQ) != 1) {
      return false;
    }
    if (ask(tensor, t.is_cpu).ptr() != Py_True || call(tensor, t.is_contiguous).ptr() != Py_True) return false;
    if (ask(tensor, t.requires_grad).ptr() != Py_False && grad_enabled()) return false;
    const py::object address = call(tensor, t.data_ptr);  // refused within torch.func transforms
    if (!address) return false;
    operand.address = static_cast<char*>(PyLong_AsVoidPtr(address.ptr()));
    operand.contiguous = true;
    return true;
  }
};

bool is_row(PyObject* object) { return PyList_CheckExact(object) || PyTuple_CheckExact(object); }

}  // namespace

py::object combine_eager(py::handle inputs, py::handle weights, py::handle out) {
  if (!is_row(inputs.ptr()) || !is_row(weights.ptr())) return py::none();
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(inputs.ptr());
  if (count < 1 || count > max_inputs || PySequence_Fast_GET_SIZE(weights.ptr()) != count) return py::none();
  Job job;
  double numbers[max_inputs];
  Like like;
  for (Py_ssize_t k = 0; k < count; ++k) {
    PyObject* weight = PySequence_Fast_GET_ITEM(weights.ptr(), k);
    if (!PyFloat_Check(weight) && !PyLong_Check(weight)) return py::none();
    numbers[k] = as_double(weight);
    if (!like.take(PySequence_Fast_GET_ITEM(inputs.ptr(), k), job.in[k])) return py::none();
  }
  PyObject* code = PyDict_GetItem(torch().dtypes, like.dtype.ptr());
  if (!code) return py::none();
  py::object result;
  if (out.is_none()) {
    result = py::reinterpret_steal<py::object>(
        PyObject_CallOneArg(torch().empty_like, PySequence_Fast_GET_ITEM(inputs.ptr(), 0)));
    if (!result) throw py::error_already_set();
  } else {
    result = py::reinterpret_borrow<py::object>(out);
  }
  if (!like.take(result.ptr(), job.out[0])) return py::none();
  job.row_size = 1;
  for (Py_ssize_t d = 0; d < PyTuple_GET_SIZE(like.shape.ptr()); ++d) {
    job.row_size *= PyLong_AsLongLong(PyTuple_GET_ITEM(like.shape.ptr(), d));
  }
  job.dtype = Dtype(PyLong_AsLong(code));
  job.inputs = int(count);
  job.outputs = job.dims = 1;
  job.draws = 0;
  job.rows = 1;
  job.weights = job.scales = numbers;
  job.weights_step = job.scales_step = 0;
  if (job.row_size > 0) {
    if (!settle_outputs(job)) return py::none();
    run_job(job);
  }
  return result;
}

}  // namespace pushforward
