// `combine` with coefficients that are read once: what a call brings are the tensors, and what it returns is new.
#include <memory>

#include "combination.hpp"
#include "module.hpp"

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
    PyObject* const inputs = tensors.ptr();
    if (common && PyTuple_GET_SIZE(inputs) == bound.job.inputs && may_run()) {
      Job job = bound.job;
      Like like;
      like.refuse_gradients = records_gradients();  // asked once: most loops record none, and need not ask the tensors
      bool plain = true;
      for (int k = 0; k < job.inputs && plain; ++k) plain = like.take(PyTuple_GET_ITEM(inputs, k), job.in[k]);
      PyObject* const code = plain ? PyDict_GetItem(torch().dtypes, like.dtype.ptr()) : nullptr;
      if (code && (noise.is_none() || read_noise(job, noise, like)) && split_rows(job, like)) {
        job.dtype = Dtype(PyLong_AsLong(code));
        return write(job, PyTuple_GET_ITEM(inputs, 0));
      }
    }
    return general(tensors, weights, py::arg("noise") = noise, py::arg("scale") = scale);
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

  py::object write(Job& job, PyObject* first) const {
    py::object made[max_outputs];
    for (int o = 0; o < job.outputs; ++o) {
      made[o] = empty_like(first);
      job.out[o].address = as_address(call(made[o].ptr(), torch().data_ptr).ptr());
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

}  // namespace

PF_BINDINGS(module) {
  py::class_<OpenCombination>(module, "OpenCombination")
      .def(py::init<py::object, py::object, py::object, py::object>())
      .def("__call__", &OpenCombination::run)
      .def("__reduce__", [](const py::object& self) { return self.cast<const OpenCombination&>().reduce(self); });
}

}  // namespace pushforward
