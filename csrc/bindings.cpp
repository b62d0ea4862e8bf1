// The Python module pushforward.kernels._native. It knows tensors by their addresses, shapes and strides, and so links
// neither torch nor OpenMP. The arguments have been checked in Python (kernels/arguments.py).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "core/lanes.hpp"
#include "core/philox.hpp"
#include "cpu/layout.hpp"
#include "cpu/parallel.hpp"
#include "eager.hpp"

namespace py = pybind11;

namespace pushforward {
namespace {

char* as_address(PyObject* number) {
  void* address = PyLong_AsVoidPtr(number);
  if (!address && PyErr_Occurred()) throw py::error_already_set();
  return static_cast<char*>(address);
}

// A combination bound to coefficients and buffers; called with the tensors that change.
class Combination {
 public:
  // `weights` and `scales`: nested rows of floats, or the address of float64 numbers for every row of the batch.
  // `noises`: (seed, purpose, step, stage, attempt, address of the sample ids or 0). None among the inputs stands
  // for a tensor that comes with the call. `strides` is None if all operands are contiguous. `keep` is kept alive.
  Combination(int dtype, const std::vector<int64_t>& shape, const py::sequence& inputs, const py::sequence& outputs,
              const py::object& strides, const py::object& weights, const py::sequence& noises,
              const py::object& scales, py::object keep)
      : keep_(std::move(keep)) {
    job_.dtype = Dtype(dtype);
    job_.inputs = int(inputs.size());
    job_.outputs = int(outputs.size());
    job_.draws = int(noises.size());
    if (job_.inputs > max_inputs || job_.outputs > max_outputs || job_.draws > max_draws || dtype < 0 || dtype > 3) {
      throw py::value_error("too many operands, or no such dtype");
    }
    for (int k = 0; k < job_.inputs; ++k) {
      const py::object address = inputs[k];
      if (address.is_none()) {
        missing_[missing_count_++] = k;
      } else {
        job_.in[k].address = as_address(address.ptr());
      }
    }
    for (int o = 0; o < job_.outputs; ++o) job_.out[o].address = as_address(py::object(outputs[o]).ptr());
    for (int d = 0; d < job_.draws; ++d) {
      const auto key = noises[d].cast<std::tuple<uint64_t, uint32_t, uint32_t, uint32_t, uint32_t, uintptr_t>>();
      job_.noise[d] = {std::get<0>(key), std::get<1>(key), std::get<2>(key), std::get<3>(key),
                       std::get<4>(key), reinterpret_cast<const int64_t*>(std::get<5>(key))};
    }
    job_.weights_step = read_rows(weights, job_.inputs, weights_, job_.weights);
    job_.scales_step = read_rows(scales, job_.draws, scales_, job_.scales);

    const bool by_row = job_.draws > 0 || job_.weights_step > 0 || job_.scales_step > 0;
    int64_t size = 1;
    for (const int64_t extent : shape) size *= extent;
    job_.rows = by_row && !shape.empty() ? shape[0] : 1;
    job_.row_size = job_.rows > 0 ? size / job_.rows : 0;
    if (strides.is_none()) {
      job_.dims = 1;
      job_.shape[0] = size;
      for (Operand& operand : job_.in) operand.contiguous = true;
      for (Operand& operand : job_.out) operand.contiguous = true;
    } else {
      const int fixed = job_.draws > 0 ? int(shape.size()) : by_row ? 1 : 0;
      set_layout(job_, {shape, strides.cast<std::vector<std::vector<int64_t>>>()}, fixed);
    }
  }
  Combination(const Combination&) = delete;

  int call(const py::args& tensors) {
    if (int(tensors.size()) != missing_count_) {
      throw py::type_error("got " + std::to_string(tensors.size()) + " tensors, expected " +
                           std::to_string(missing_count_));
    }
    Job job = job_;  // the call may release the interpreter, and another thread may call meanwhile
    for (int i = 0; i < missing_count_; ++i) job.in[missing_[i]].address = address_of(tensors[i].ptr());
    if (job.size() == 0) return 0;
    if (!settle_outputs(job)) throw py::value_error("an output partly overlaps another tensor");
    return run_job(job);
  }

 private:
  // Returns how far the numbers of two rows of the batch are apart: 0 where they share them.
  int64_t read_rows(const py::object& rows, int width, double* storage, const double*& used) {
    if (PyLong_Check(rows.ptr())) {
      used = reinterpret_cast<const double*>(as_address(rows.ptr()));
      return int64_t(job_.outputs) * width;
    }
    used = storage;
    const auto outer = py::reinterpret_borrow<py::sequence>(rows);
    if (int(outer.size()) != job_.outputs) throw py::value_error("coefficients: a row for each output");
    for (int o = 0; o < job_.outputs; ++o) {
      const auto row = py::reinterpret_borrow<py::sequence>(outer[o]);
      if (int(row.size()) != width) throw py::value_error("coefficients: rows of the wrong length");
      for (int k = 0; k < width; ++k) storage[o * width + k] = as_double(py::object(row[k]).ptr());
    }
    return 0;
  }

  Job job_{};
  double weights_[max_outputs * max_inputs];
  double scales_[max_outputs * max_draws];
  int missing_[max_inputs];
  int missing_count_ = 0;
  py::object keep_;
};

// For the known-answer test.
std::array<uint32_t, 4> philox_words(const std::array<uint32_t, 4>& c, const std::array<uint32_t, 2>& k) {
  const auto words = generic::philox<generic::OneLane>(c[0], c[1], c[2], c[3], k[0], k[1]);
  return {words.w[0], words.w[1], words.w[2], words.w[3]};
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Compiled kernels of pushforward; use pushforward.kernels.";
  py::class_<Combination>(module, "Combination")
      .def(py::init<int, const std::vector<int64_t>&, const py::sequence&, const py::sequence&, const py::object&,
                    const py::object&, const py::sequence&, const py::object&, py::object>(),
           py::arg("dtype"), py::arg("shape"), py::arg("inputs"), py::arg("outputs"), py::arg("strides"),
           py::arg("weights"), py::arg("noises"), py::arg("scales"), py::arg("keep"))
      .def("__call__", &Combination::call);
  module.def("combine_eager", &combine_eager);
  module.def("set_torch", &set_torch);
  module.def("philox", &philox_words, py::arg("counter"), py::arg("key"));
  module.def("instruction_sets", &instruction_sets);
  module.def("instruction_set", &instruction_set);
  module.def("use_instruction_set", &use_instruction_set);
  module.def("thread_source", &thread_source);
}

}  // namespace pushforward
