// Tensors of random numbers: the common case with all its checks, and the general one, checked in Python.
#include <pybind11/stl.h>

#include <algorithm>
#include <tuple>

#include "../cpu/parallel.hpp"
#include "../cpu/random_job.hpp"
#include "module.hpp"
#include "noise_key.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

// As in combinations, outputs of this many bytes are written past the caches.
constexpr int64_t past_cache_bytes = int64_t(32) << 20;

void run(RandomJob& job) {
  const auto kernel = random_stretch_kernel();
  const int64_t size = job.size(), least = 4096;  // waking a second thread costs about as much as so many numbers
  job.past_cache = size * element_size(job.dtype) > past_cache_bytes;
  const int threads = size < 2 * least ? 1 : int(std::min<int64_t>(torch_threads(), size / least));
  if (threads <= 1) {
    if (size > 0) kernel(job, 0, size);
    return;
  }
  constexpr int64_t unit = 1024;  // vectors of numbers and cache lines belong to one thread
  py::gil_scoped_release release;
  parallel_for((size + unit - 1) / unit, threads,
               [&](int64_t first, int64_t last) { kernel(job, first * unit, std::min(last * unit, size)); });
}

// Objects of torch that only this family needs; never released.
struct Names {
  PyObject *empty, *cpu, *int64, *keywords;
};
const Names& names() {
  static const Names found = [] {
    const py::module_ module = py::module_::import("torch");
    const py::object empty = module.attr("empty"), cpu = module.attr("device")("cpu"), int64 = module.attr("int64");
    const py::object keywords = py::make_tuple("dtype", "device");
    return Names{empty.inc_ref().ptr(), cpu.inc_ref().ptr(), int64.inc_ref().ptr(), keywords.inc_ref().ptr()};
  }();
  return found;
}

bool is_cpu(PyObject* device) {
  if (device == names().cpu) return true;
  if (PyUnicode_Check(device)) return PyUnicode_CompareWithASCIIString(device, "cpu") == 0;
  return PyObject_RichCompareBool(device, names().cpu, Py_EQ) == 1;
}

// A whole number in [0, limit]; false, without an error, if it is something else.
bool read_whole(PyObject* number, uint64_t limit, uint64_t& value) {
  if (!PyLong_CheckExact(number)) return false;
  value = PyLong_AsUnsignedLongLong(number);
  if (value == uint64_t(-1) && PyErr_Occurred()) {
    PyErr_Clear();
    return false;
  }
  return value <= limit;
}

bool read_key(PyObject* seed, PyObject* draw, PyObject* samples, int64_t rows, NoiseKey& key) {
  uint64_t words[4];
  if (!read_whole(seed, UINT64_MAX, key.seed) || !PyTuple_Check(draw) || PyTuple_GET_SIZE(draw) != 4) return false;
  for (int i = 0; i < 4; ++i) {
    if (!read_whole(PyTuple_GET_ITEM(draw, i), UINT32_MAX, words[i])) return false;
  }
  key = {key.seed, uint32_t(words[0]), uint32_t(words[1]), uint32_t(words[2]), uint32_t(words[3]), nullptr};
  if (samples == Py_None) return true;
  Like like;
  Operand ids;
  if (!like.take(samples, ids) || like.dtype.ptr() != names().int64) return false;
  if (like.dims() != 1 || like.extent(0) != rows) return false;
  key.samples = reinterpret_cast<const int64_t*>(ids.address);
  return std::all_of(key.samples, key.samples + rows, [](int64_t id) { return id >= 0; });
}

// A new tensor, or None where the general path must decide: other devices or arguments, mistakes, transforms.
py::object random_eager(Distribution distribution, PyObject* extents, PyObject* seed, PyObject* draw,
                        PyObject* samples, PyObject* dtype, PyObject* device) {
  if (!(PyTuple_Check(extents) || PyList_CheckExact(extents)) || !is_cpu(device)) return py::none();
  PyObject* const code = PyDict_GetItem(torch().dtypes, dtype);
  if (!code) return py::none();
  RandomJob job;
  job.distribution = distribution;
  job.dtype = Dtype(PyLong_AsLong(code));
  const bool uniform = distribution == Distribution::uniform;
  if (uniform && job.dtype != Dtype::float32 && job.dtype != Dtype::float64) return py::none();
  const uint64_t most = uint64_t(1) << (uniform && job.dtype == Dtype::float64 ? 33 : 34);
  const Py_ssize_t dims = PySequence_Fast_GET_SIZE(extents);
  if (dims == 0) return py::none();
  job.row_size = 1;
  for (Py_ssize_t d = 0; d < dims; ++d) {
    uint64_t extent;
    if (!read_whole(PySequence_Fast_GET_ITEM(extents, d), most, extent)) return py::none();
    if (d == 0) {
      job.rows = int64_t(extent);
    } else if (extent > 0 && uint64_t(job.row_size) > most / extent) {
      return py::none();
    } else {
      job.row_size *= int64_t(extent);
    }
  }
  if (!read_key(seed, draw, samples, job.rows, job.key)) return py::none();
  PyObject* const arguments[] = {extents, dtype, names().cpu};
  PyObject* const made = PyObject_Vectorcall(names().empty, arguments, 1, names().keywords);
  if (!made) throw py::error_already_set();
  py::object out = py::reinterpret_steal<py::object>(made);
  if (reinterpret_cast<PyObject*>(Py_TYPE(made)) != torch().tensor) return py::none();
  const py::object address = call(made, torch().data_ptr);  // refused within torch.func transforms
  if (!address) return py::none();
  job.out = as_address(address.ptr());
  run(job);
  return out;
}

// (shape, seed, draw, samples, dtype, device). Called without pybind11, which would cost half as much as the numbers of
// a small tensor.
template <Distribution distribution>
PyObject* random_eager_call(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 6) {
    PyErr_SetString(PyExc_TypeError, "expected shape, seed, draw, samples, dtype, device");
    return nullptr;
  }
  try {
    return random_eager(distribution, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
                        arguments[5])
        .release()
        .ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

PyMethodDef eager_methods[] = {
    {"normal_eager", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(
                         &random_eager_call<Distribution::normal>)), METH_FASTCALL, nullptr},
    {"uniform_eager", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(
                          &random_eager_call<Distribution::uniform>)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr}};

// Fill rows * row_size contiguous elements. `key`: seed, purpose, step, stage, attempt, address of the ids or 0.
void fill_random(int distribution, uintptr_t out, int dtype, int64_t rows, int64_t row_size,
                 const KeyTuple& key) {
  RandomJob job{Distribution(distribution), Dtype(dtype), rows, row_size, {}, reinterpret_cast<char*>(out), false};
  job.key = noise_key(key);
  run(job);
}

}  // namespace

PF_BINDINGS(module) {
  if (PyModule_AddFunctions(module.ptr(), eager_methods) != 0) throw py::error_already_set();
  module.def("fill_random", &fill_random, py::arg("distribution"), py::arg("out"), py::arg("dtype"), py::arg("rows"),
             py::arg("row_size"), py::arg("key"));
}

}  // namespace pushforward
