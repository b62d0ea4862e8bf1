// `combine` with coefficients that are read once: what a call brings are the tensors, and what it returns is new.
#include <cstddef>
#include <memory>

#include "combination.hpp"
#include "exchange.hpp"
#include "module.hpp"

#include <structmember.h>  // after Python.h, which it does not include

namespace pushforward {
namespace {

class OpenCombination {
 public:
  // `weights`, `noise` and `scale` as `general` takes them: `combine` in Python, which runs what is not common.
  OpenCombination(py::object weights, py::object noise, py::object scale, py::object general)
      : weights(std::move(weights)), noise(std::move(noise)), scale(std::move(scale)), general(std::move(general)) {
    common = read();
  }

  py::object run(const py::args& tensors) const {
    PyObject* const* const inputs = PySequence_Fast_ITEMS(tensors.ptr());
    if (py::object made = run_common(inputs, PyTuple_GET_SIZE(tensors.ptr()))) return made;
    return general(tensors, weights, py::arg("noise") = noise, py::arg("scale") = scale);
  }

  // Null where the general path must decide.
  py::object run_common(PyObject* const* inputs, Py_ssize_t count) const {
    if (!common || count != bound.job.inputs || !may_run()) return py::object();
    Job job = bound.job;
    const bool gradients = records_gradients();  // asked once: most loops record none, and need not ask the tensors
    if (noise.is_none() && has_views()) return view(job, inputs, gradients) ? write(job, inputs[0]) : py::object();
    Like like;
    like.refuse_gradients = gradients;
    for (int k = 0; k < job.inputs; ++k) {
      if (!like.take(inputs[k], job.in[k])) return py::object();
    }
    PyObject* const code = PyDict_GetItem(torch().dtypes, like.dtype.ptr());
    if (!code || !(noise.is_none() || read_noise(job, noise, like)) || !split_rows(job, like)) return py::object();
    job.dtype = Dtype(PyLong_AsLong(code));
    return write(job, inputs[0]);
  }

  py::tuple reduce(const py::object& self) const {
    return py::make_tuple(py::type::of(self), py::make_tuple(weights, noise, scale, general));
  }

 private:
  bool read() {
    if (!is_row(weights.ptr()) || PySequence_Fast_GET_SIZE(weights.ptr()) == 0) return false;
    PyObject* const first = PySequence_Fast_GET_ITEM(weights.ptr(), 0);
    const Py_ssize_t inputs = PySequence_Fast_GET_SIZE(is_row(first) ? first : weights.ptr());
    if (inputs == 0 || !bound.read_weights(weights, inputs, single)) return false;
    if (noise.is_none() || scale.is_none()) return noise.is_none() && scale.is_none();
    const bool many = is_row(noise.ptr());
    const Py_ssize_t draws = many ? PySequence_Fast_GET_SIZE(noise.ptr()) : 1;
    return draws <= max_draws && bound.read_scale(scale, int(draws), single, many);
  }

  // As the loop over `Like::take` and `split_rows` do, without noise.
  static bool view(Job& job, PyObject* const* inputs, bool gradients) {
    View first, other;
    for (int k = 0; k < job.inputs; ++k) {
      View& each = k == 0 ? first : other;
      if (!view_of(inputs[k], each) || !each.matches(first)) return false;
      if (gradients && ask(inputs[k], torch().requires_grad).ptr() != Py_False) return false;
      job.in[k].address = each.address;
      job.in[k].contiguous = true;
    }
    job.dtype = first.dtype;
    job.rows = job.dims = 1;
    job.row_size = first.size;
    job.groups = {nullptr, nullptr, 0, first.size, 1};
    return true;
  }

  py::object write(Job& job, PyObject* first) const {
    py::object made[max_outputs];
    for (int o = 0; o < job.outputs; ++o) {
      made[o] = empty_like(first);
      View out;
      const bool seen = has_views() && view_of(made[o].ptr(), out);
      job.out[o].address = seen ? out.address : as_address(call(made[o].ptr(), torch().data_ptr).ptr());
      job.out[o].contiguous = true;
    }
    if (job.size() > 0) {
      Bound::settle_outputs(job);
      run_job(job);
    }
    if (single) return std::move(made[0]);
    py::tuple all(job.outputs);
    for (int o = 0; o < job.outputs; ++o) all[o] = std::move(made[o]);
    return std::move(all);
  }

  py::object weights, noise, scale, general;
  Bound bound;
  bool common, single = true;
};

// A combination of one output on registers, a dictionary of tensors: two of its inputs may be new tensors.
class RegisterStep {
 public:
  // `inputs`: the combination's keys, in order, of which `first` and `second` stand for the tensors that come with a
  // call. Those in `kept` are put into the dictionary, and keys in `dying` leave it.
  RegisterStep(py::object combination, py::tuple inputs, py::object first, py::object second, py::tuple kept, py::tuple dying)
      : combination(std::move(combination)),
        inputs(std::move(inputs)),
        first(std::move(first)),
        second(std::move(second)),
        kept(std::move(kept)),
        dying(std::move(dying)),
        run_common(this->combination.cast<const OpenCombination&>()),
        keeps_first(contains(this->kept, this->first)),
        keeps_second(contains(this->kept, this->second)) {
    count = PyTuple_GET_SIZE(this->inputs.ptr());
    if (count > max_inputs) throw py::value_error("too many inputs");
    for (Py_ssize_t k = 0; k < count; ++k) {
      const py::object key = this->inputs[size_t(k)];
      from[k] = key.equal(this->second) ? 2 : key.equal(this->first) ? 1 : 0;
    }
  }

  // The new tensor; None, with nothing changed, where the general path must decide.
  py::object run(py::handle values, py::handle of_first, py::handle of_second) const {
    PyObject* tensors[max_inputs];
    py::object held[max_inputs];  // another thread may change the dictionary while the interpreter is let go
    for (Py_ssize_t k = 0; k < count; ++k) {
      if (from[k] == 0) {
        held[k] = py::reinterpret_borrow<py::object>(
            PyDict_GetItem(values.ptr(), PyTuple_GET_ITEM(inputs.ptr(), k)));
        if (!held[k]) return py::none();
      }
      tensors[k] = from[k] == 2 ? of_second.ptr() : from[k] == 1 ? of_first.ptr() : held[k].ptr();
    }
    py::object made = run_common.run_common(tensors, count);
    if (!made) return py::none();
    if (keeps_first) put(values, first, of_first);
    if (keeps_second) put(values, second, of_second);
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(dying.ptr()); ++k) {
      if (PyDict_DelItem(values.ptr(), PyTuple_GET_ITEM(dying.ptr(), k)) < 0) PyErr_Clear();
    }
    return made;
  }

  py::tuple arguments() const { return py::make_tuple(combination, inputs, first, second, kept, dying); }

 private:
  static void put(py::handle values, const py::object& key, py::handle tensor) {
    if (PyDict_SetItem(values.ptr(), key.ptr(), tensor.ptr()) < 0) throw py::error_already_set();
  }

  static bool contains(const py::tuple& keys, const py::object& key) {
    for (const py::handle& one : keys) {
      if (one.equal(key)) return true;
    }
    return false;
  }

  py::object combination;
  py::tuple inputs;
  py::object first, second;
  py::tuple kept, dying;
  const OpenCombination& run_common;
  bool keeps_first, keeps_second;
  Py_ssize_t count;
  int from[max_inputs];
};

// A type of its own, called without a tuple of arguments: what pybind11 does around a call would be a tenth of a step.
struct StepObject {
  PyObject_HEAD vectorcallfunc call;
  RegisterStep* step;
};

RegisterStep& step_of(PyObject* self) { return *reinterpret_cast<StepObject*>(self)->step; }

template <class Function>
PyObject* guarded(Function&& function) {
  try {
    return function().release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  }
  return nullptr;
}

PyObject* call_step(PyObject* self, PyObject* const* given, size_t flags, PyObject* names) {
  if (names || PyVectorcall_NARGS(flags) != 3 || !PyDict_Check(given[0])) {
    PyErr_SetString(PyExc_TypeError, "expected a dictionary and two tensors");
    return nullptr;
  }
  return guarded([&] { return step_of(self).run(given[0], given[1], given[2]); });
}

PyObject* new_step(PyTypeObject* type, PyObject* arguments, PyObject*) {
  return guarded([&] {
    const auto given = py::reinterpret_borrow<py::tuple>(arguments);
    if (given.size() != 6) throw py::type_error("expected six arguments");
    auto step = std::make_unique<RegisterStep>(given[0], given[1], given[2], given[3], given[4], given[5]);
    auto made = py::reinterpret_steal<py::object>(type->tp_alloc(type, 0));
    if (!made) throw py::error_already_set();
    auto* object = reinterpret_cast<StepObject*>(made.ptr());
    object->call = &call_step;
    object->step = step.release();
    return made;
  });
}

void delete_step(PyObject* self) {
  PyTypeObject* const type = Py_TYPE(self);
  delete reinterpret_cast<StepObject*>(self)->step;
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* reduce_step(PyObject* self, PyObject*) {
  return guarded([&] { return py::make_tuple(py::type::of(self), step_of(self).arguments()); });
}

PyMemberDef step_members[] = {{"__vectorcalloffset__", T_PYSSIZET, offsetof(StepObject, call), READONLY, nullptr}, {}};
PyMethodDef step_methods[] = {{"__reduce__", &reduce_step, METH_NOARGS, nullptr}, {}};
PyType_Slot step_slots[] = {{Py_tp_new, reinterpret_cast<void*>(&new_step)},
                            {Py_tp_dealloc, reinterpret_cast<void*>(&delete_step)},
                            {Py_tp_call, reinterpret_cast<void*>(&PyVectorcall_Call)},
                            {Py_tp_members, step_members},
                            {Py_tp_methods, step_methods},
                            {0, nullptr}};
PyType_Spec step_spec = {"pushforward.kernels._native.RegisterStep", sizeof(StepObject), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL, step_slots};

}  // namespace

PF_BINDINGS(module) {
  py::class_<OpenCombination>(module, "OpenCombination")
      .def(py::init<py::object, py::object, py::object, py::object>())
      .def("__call__", &OpenCombination::run)
      .def("__reduce__", [](const py::object& self) { return self.cast<const OpenCombination&>().reduce(self); });
  const auto step = py::reinterpret_steal<py::object>(PyType_FromSpec(&step_spec));
  if (!step) throw py::error_already_set();
  module.add_object("RegisterStep", step);
}

}  // namespace pushforward
