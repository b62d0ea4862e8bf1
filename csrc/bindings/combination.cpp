#include "combination.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>

#include "../cpu/layout.hpp"
#include "../cpu/parallel.hpp"
#include "module.hpp"
#include "noise_key.hpp"

namespace pushforward {

// Above this many bytes, outputs are written past the caches: about where the operands of a pass outgrow them.
constexpr int64_t past_cache_bytes = int64_t(32) << 20;

using Kernel = int (*)(const Job&, int64_t, int64_t);

bool Bound::settle_outputs(Job& job) {
  const int64_t bytes = job.size() * element_size(job.dtype);
  const bool large = bytes * (job.inputs + job.outputs) > past_cache_bytes;
  auto apart = [bytes](const Operand& a, const Operand& b) {
    return !a.contiguous || !b.contiguous || a.address + bytes <= b.address || b.address + bytes <= a.address;
  };
  bool fresh = true;  // an output that is also an input was just read: its lines are there to be written
  for (int o = 0; o < job.outputs; ++o) {
    const Operand& out = job.out[o];
    fresh = fresh && out.contiguous;
    for (int k = 0; k < job.inputs; ++k) {
      if (apart(out, job.in[k])) continue;
      if (job.in[k].address != out.address) return false;
      fresh = false;
    }
    for (int other = 0; other < o; ++other) {
      if (!apart(out, job.out[other])) return false;
    }
  }
  job.past_cache = large && fresh;
  return true;
}

int run_job(const Job& job) {
  const Kernel kernel = combine_stretch_kernel();
  // With data in the own cache one thread is as fast up to some 32 thousand elements. But inputs come from a network
  // that ran on all threads, so half of them wait in the caches of others: a step of DPM-Solver++ 2M on 16384 elements
  // took 27 us on one of two threads and 8 on both, whose halves are those of torch. Below 4096 asking for the number
  // of threads does not pay, nor does releasing the interpreter.
  const int64_t size = job.size(), least = job.draws > 0 ? 4096 : 8192;
  const int threads = size < least ? 1 : int(std::min<int64_t>(torch_threads(), size / least));
  if (threads <= 1) return size == 0 ? 0 : kernel(job, 0, size);
  // Shares end at multiples of 1024 elements, so that vectors of normals and cache lines belong to one thread.
  constexpr int64_t unit = 1024;
  std::atomic<int> status{0};
  py::gil_scoped_release release;
  parallel_for((size + unit - 1) / unit, threads, [&](int64_t first, int64_t last) {
    status |= kernel(job, first * unit, std::min(last * unit, size));
  });
  return status;
}

namespace {

// Numbers [rows][columns], where a dimension that is not nested is absent (and one long).
bool read_table(PyObject* table, int rows, bool rows_nested, int columns, bool columns_nested, double* to) {
  if (rows_nested && (!is_row(table) || PySequence_Fast_GET_SIZE(table) != rows)) return false;
  for (int r = 0; r < rows; ++r) {
    PyObject* row = rows_nested ? PySequence_Fast_GET_ITEM(table, r) : table;
    if (columns_nested && (!is_row(row) || PySequence_Fast_GET_SIZE(row) != columns)) return false;
    for (int c = 0; c < columns; ++c) {
      PyObject* number = columns_nested ? PySequence_Fast_GET_ITEM(row, c) : row;
      if (!is_number(number)) return false;
      to[r * columns + c] = as_double(number);
    }
  }
  return true;
}

// Numbers [rows][outputs][columns] in a float64 tensor, where a dimension that is not nested is absent.
bool read_tensor(PyObject* table, int64_t rows, int outputs, bool outputs_nested, int columns, bool columns_nested,
                 const double*& numbers) {
  Like like;
  Operand operand;
  if (!like.take(table, operand)) return false;
  PyObject* const code = PyDict_GetItem(torch().dtypes, like.dtype.ptr());
  int d = 0;
  if (!code || PyLong_AsLong(code) != long(Dtype::float64)) return false;
  if (like.dims() != 1 + outputs_nested + columns_nested || like.extent(d++) != rows) return false;
  if (outputs_nested && like.extent(d++) != outputs) return false;
  if (columns_nested && like.extent(d++) != columns) return false;
  numbers = reinterpret_cast<const double*>(operand.address);
  return true;
}

bool is_tensor(py::handle object) { return reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) == torch().tensor; }

}  // namespace

void Bound::count(Py_ssize_t inputs, Py_ssize_t outputs) {
  job.inputs = int(inputs);
  job.outputs = int(outputs);
  job.draws = 0;
  job.weights = weights;
  job.scales = scales;
  job.weights_step = job.scales_step = 0;
}

bool Bound::read_weights(py::handle rows, Py_ssize_t inputs, bool& single) {
  if (!is_row(rows.ptr()) || inputs > max_inputs) return false;
  const Py_ssize_t outputs = PySequence_Fast_GET_SIZE(rows.ptr());
  single = outputs == 0 || !is_row(PySequence_Fast_GET_ITEM(rows.ptr(), 0));
  if (!single && outputs > max_outputs) return false;
  count(inputs, single ? 1 : outputs);
  return read_table(rows.ptr(), job.outputs, !single, job.inputs, true, weights);
}

bool Bound::read_scale(py::handle rows, int draws, bool single, bool many) {
  job.draws = draws;
  return read_table(rows.ptr(), job.outputs, !single, draws, many, scales);
}

bool Bound::common(py::handle inputs, py::handle weights, py::object& outs, py::handle noise, py::handle scale,
                   bool prepared, bool& single) {
  if (!is_row(inputs.ptr())) return false;
  const Py_ssize_t given = PySequence_Fast_GET_SIZE(inputs.ptr());
  const bool by_sample = is_tensor(weights);
  if (by_sample) {
    const py::object extents = ask(weights.ptr(), torch().shape);
    const Py_ssize_t dims = extents && PyTuple_Check(extents.ptr()) ? PyTuple_GET_SIZE(extents.ptr()) : 0;
    if (dims < 2) return false;
    single = dims == 2;
    const Py_ssize_t rows = single ? 1 : PyLong_AsSsize_t(PyTuple_GET_ITEM(extents.ptr(), 1));
    if (given > max_inputs || rows < 1 || rows > max_outputs) return false;
    count(given, rows);
  } else if (!read_weights(weights, given, single)) {
    return false;
  }

  Like like;
  like.refuse_gradients = !prepared;
  for (int k = 0; k < job.inputs; ++k) {
    PyObject* input = PySequence_Fast_GET_ITEM(inputs.ptr(), k);
    if (input == Py_None && prepared) {
      job.in[k].contiguous = true;
      missing[missing_count++] = k;
    } else if (!like.take(input, job.in[k])) {
      return false;
    }
  }
  if (outs.is_none()) {
    if (job.inputs == 0 || !PyDict_GetItem(torch().dtypes, like.dtype.ptr())) return false;
    py::list made;
    for (int o = 0; o < job.outputs; ++o) made.append(empty_like(PySequence_Fast_GET_ITEM(inputs.ptr(), 0)));
    outs = made;
  }
  if (is_row(outs.ptr())) {
    if (PySequence_Fast_GET_SIZE(outs.ptr()) != job.outputs) return false;
    for (int o = 0; o < job.outputs; ++o) {
      if (!like.take(PySequence_Fast_GET_ITEM(outs.ptr(), o), job.out[o])) return false;
    }
  } else if (job.outputs != 1 || !like.take(outs.ptr(), job.out[0])) {
    return false;
  }
  PyObject* code = PyDict_GetItem(torch().dtypes, like.dtype.ptr());
  if (!code) return false;
  job.dtype = Dtype(PyLong_AsLong(code));
  if (noise.is_none() != scale.is_none()) return false;
  if (!noise.is_none() && !noise_of(noise, scale, single, like)) return false;
  if (by_sample) {
    if (like.dims() == 0) return false;
    job.weights_step = job.outputs * job.inputs;
    if (!read_tensor(weights.ptr(), like.extent(0), job.outputs, !single, job.inputs, true, job.weights)) return false;
  }
  return split_rows(job, like);
}

bool Bound::noise_of(py::handle noise, py::handle scale, bool single, const Like& like) {
  const bool many = is_row(noise.ptr());
  if (!read_noise(job, noise, like)) return false;
  if (!is_tensor(scale)) return read_scale(scale, job.draws, single, many);
  job.scales_step = job.outputs * job.draws;
  return read_tensor(scale.ptr(), like.extent(0), job.outputs, !single, job.draws, many, job.scales);
}

bool read_noise(Job& job, py::handle noise, const Like& like) {
  const bool many = is_row(noise.ptr());
  const Py_ssize_t draws = many ? PySequence_Fast_GET_SIZE(noise.ptr()) : 1;
  if (draws > max_draws || like.dims() == 0) return false;
  job.draws = int(draws);
  for (int d = 0; d < job.draws; ++d) {
    PyObject* key = many ? PySequence_Fast_GET_ITEM(noise.ptr(), d) : noise.ptr();
    if (reinterpret_cast<PyObject*>(Py_TYPE(key)) != torch().noise) return false;
    // `Noise` has checked their ranges.
    const py::object seed = ask(key, torch().seed), draw = ask(key, torch().draw), ids = ask(key, torch().samples);
    if (!seed || !draw || !ids || !PyTuple_Check(draw.ptr()) || PyTuple_GET_SIZE(draw.ptr()) != 4) return false;
    auto word = [&](int i) { return uint32_t(PyLong_AsUnsignedLong(PyTuple_GET_ITEM(draw.ptr(), i))); };
    job.noise[d] = {PyLong_AsUnsignedLongLong(seed.ptr()), word(0), word(1), word(2), word(3), nullptr};
    if (PyErr_Occurred()) throw py::error_already_set();
    if (!ids.is_none()) {
      Like of_ids;
      Operand operand;
      if (!of_ids.take(ids.ptr(), operand) || of_ids.extent(0) != like.extent(0)) return false;
      job.noise[d].samples = reinterpret_cast<const int64_t*>(operand.address);
    }
  }
  return true;
}

bool split_rows(Job& job, const Like& like) {
  const bool by_row = job.draws > 0 || job.table();
  job.rows = by_row ? like.extent(0) : 1;
  job.row_size = 1;
  for (int d = by_row ? 1 : 0; d < like.dims(); ++d) job.row_size *= like.extent(d);
  job.dims = 1;
  job.groups = {nullptr, nullptr, 0, job.row_size, job.rows};
  if (job.rows * std::max(job.weights_step, job.scales_step) > INT32_MAX) return false;
  return job.row_size <= int64_t(1) << 34 || job.draws == 0;
}

py::object combine_eager(py::handle inputs, py::handle weights, py::object out, py::handle noise, py::handle scale) {
  Bound bound;
  bool single;
  const bool fresh = out.is_none();
  if (!bound.common(inputs, weights, out, noise, scale, false, single)) return py::none();
  if (bound.job.size() > 0) {
    if (!Bound::settle_outputs(bound.job)) return py::none();
    run_job(bound.job);
  }
  if (single && is_row(out.ptr())) return py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(out.ptr(), 0));
  if (fresh || PyList_CheckExact(out.ptr())) return py::reinterpret_steal<py::object>(PySequence_Tuple(out.ptr()));
  if (!single && !is_row(out.ptr())) return py::make_tuple(out);
  return out;
}

std::unique_ptr<Combination> prepare_eager(py::handle inputs, py::handle weights, py::object outs, py::handle noise,
                                           py::handle scale) {
  auto result = std::make_unique<Combination>();
  bool single;
  if (outs.is_none() || !result->bound.common(inputs, weights, outs, noise, scale, true, single)) return nullptr;
  Job& job = result->bound.job;
  for (int i = 0; i < result->bound.missing_count; ++i) {
    job.in[result->bound.missing[i]].contiguous = false;  // not there yet: nothing to overlap with
  }
  const bool apart = job.size() == 0 || Bound::settle_outputs(job);
  for (int i = 0; i < result->bound.missing_count; ++i) job.in[result->bound.missing[i]].contiguous = true;
  if (!apart) return nullptr;
  result->keep = py::make_tuple(py::tuple(py::reinterpret_borrow<py::object>(inputs)), outs, noise, weights, scale);
  if (is_row(noise.ptr())) result->keep = py::make_tuple(result->keep, py::tuple(py::reinterpret_borrow<py::object>(noise)));
  if (is_row(outs.ptr())) result->keep = py::make_tuple(result->keep, py::tuple(outs));
  return result;
}

Combination::Combination(int dtype, const std::vector<int64_t>& shape, const py::sequence& inputs,
                         const py::sequence& outputs, const py::object& strides, const py::object& weights,
                         const py::sequence& noises, const py::object& scales,
                         const std::tuple<uintptr_t, int64_t>& groups, py::object keep)
    : keep(std::move(keep)) {
  Job& job = bound.job;
  job.dtype = Dtype(dtype);
  job.inputs = int(inputs.size());
  job.outputs = int(outputs.size());
  job.draws = int(noises.size());
  if (job.inputs > max_inputs || job.outputs > max_outputs || job.draws > max_draws || dtype < 0 || dtype > 3) {
    throw py::value_error("too many operands, or no such dtype");
  }
  for (int k = 0; k < job.inputs; ++k) {
    const py::object address = inputs[k];
    if (address.is_none()) {
      bound.missing[bound.missing_count++] = k;
    } else {
      job.in[k].address = as_address(address.ptr());
    }
  }
  for (int o = 0; o < job.outputs; ++o) job.out[o].address = as_address(py::object(outputs[o]).ptr());
  for (int d = 0; d < job.draws; ++d) {
    job.noise[d] = noise_key(noises[d].cast<KeyTuple>());
  }
  job.weights_step = read_rows(weights, job.inputs, bound.weights, job.weights);
  job.scales_step = read_rows(scales, job.draws, bound.scales, job.scales);

  job.groups.address = reinterpret_cast<const int64_t*>(std::get<0>(groups));
  job.groups.count = std::get<1>(groups);
  if (job.groups.count * std::max(job.weights_step, job.scales_step) > INT32_MAX) {
    throw py::value_error("tables of more than 2^31 coefficients");
  }

  const bool by_sample = job.table() && !job.groups.address, by_row = job.draws > 0 || by_sample;
  int64_t size = 1;
  for (const int64_t extent : shape) size *= extent;
  job.rows = by_row && !shape.empty() ? shape[0] : 1;
  job.row_size = job.rows > 0 ? size / job.rows : 0;
  if (strides.is_none()) {
    job.dims = 1;
    for (Operand& operand : job.in) operand.contiguous = true;
    for (Operand& operand : job.out) operand.contiguous = true;
  } else {
    const int fixed = job.draws > 0 ? int(shape.size()) : by_sample ? 1 : 0;
    set_layout(job, {shape, strides.cast<std::vector<std::vector<int64_t>>>()}, fixed, bound.strides);
  }
  if (by_sample) job.groups.run = job.row_size;
}

int Combination::run(const py::args& tensors) const {
  if (int(tensors.size()) != bound.missing_count) {
    throw py::type_error("got " + std::to_string(tensors.size()) + " tensors, expected " +
                         std::to_string(bound.missing_count));
  }
  Job job = bound.job;  // the call may release the interpreter, and another thread may call meanwhile
  for (int i = 0; i < bound.missing_count; ++i) {
    PyObject* address = PyObject_CallMethodNoArgs(PyTuple_GET_ITEM(tensors.ptr(), i), torch().data_ptr);
    if (!address) throw py::error_already_set();
    job.in[bound.missing[i]].address = static_cast<char*>(PyLong_AsVoidPtr(address));
    Py_DECREF(address);
  }
  if (job.size() == 0) return 0;
  if (!Bound::settle_outputs(job)) throw py::value_error("an output partly overlaps another tensor");
  return run_job(job);
}

// Returns how far the numbers of two rows of the batch are apart: 0 where they share them.
int64_t Combination::read_rows(const py::object& rows, int width, double* storage, const double*& used) {
  const int outputs = bound.job.outputs;
  if (PyLong_Check(rows.ptr())) {
    used = reinterpret_cast<const double*>(as_address(rows.ptr()));
    return int64_t(outputs) * width;
  }
  used = storage;
  const auto outer = py::reinterpret_borrow<py::sequence>(rows);
  if (int(outer.size()) != outputs) throw py::value_error("coefficients: a row for each output");
  for (int o = 0; o < outputs; ++o) {
    const auto row = py::reinterpret_borrow<py::sequence>(outer[o]);
    if (int(row.size()) != width) throw py::value_error("coefficients: rows of the wrong length");
    for (int k = 0; k < width; ++k) storage[o * width + k] = as_double(py::object(row[k]).ptr());
  }
  return 0;
}

PF_BINDINGS(module) {
  py::class_<Combination>(module, "Combination")
      .def(py::init<int, const std::vector<int64_t>&, const py::sequence&, const py::sequence&, const py::object&,
                    const py::object&, const py::sequence&, const py::object&, const std::tuple<uintptr_t, int64_t>&,
                    py::object>(),
           py::arg("dtype"), py::arg("shape"), py::arg("inputs"), py::arg("outputs"), py::arg("strides"),
           py::arg("weights"), py::arg("noises"), py::arg("scales"), py::arg("groups"), py::arg("keep"))
      .def("__call__", &Combination::run);
  module.def("combine_eager", &combine_eager);
  module.def("prepare_eager", &prepare_eager);
}

}  // namespace pushforward
