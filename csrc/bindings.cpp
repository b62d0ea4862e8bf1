// The Python module pushforward.kernels._native. It knows tensors by their names for things, addresses, shapes and
// strides, and so links neither torch nor OpenMP.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "combination.hpp"
#include "core/lanes.hpp"
#include "core/philox.hpp"
#include "cpu/parallel.hpp"

namespace pushforward {
namespace {

// For the known-answer test.
std::array<uint32_t, 4> philox_words(const std::array<uint32_t, 4>& c, const std::array<uint32_t, 2>& k) {
  const auto words = generic::philox<generic::OneLane>(c[0], c[1], c[2], c[3], k[0], k[1]);
  return {words.w[0], words.w[1], words.w[2], words.w[3]};
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Compiled kernels of pushforward; use pushforward.kernels.";
  module.def("set_torch", &set_torch);

  py::class_<Combination>(module, "Combination")
      .def(py::init<int, const std::vector<int64_t>&, const py::sequence&, const py::sequence&, const py::object&,
                    const py::object&, const py::sequence&, const py::object&, py::object>(),
           py::arg("dtype"), py::arg("shape"), py::arg("inputs"), py::arg("outputs"), py::arg("strides"),
           py::arg("weights"), py::arg("noises"), py::arg("scales"), py::arg("keep"))
      .def("__call__", &Combination::run);
  module.def("combine_eager", &combine_eager);
  module.def("prepare_eager", &prepare_eager);

  module.def("instruction_sets", &instruction_sets);
  module.def("instruction_set", &instruction_set);
  module.def("use_instruction_set", &use_instruction_set);
  module.def("thread_source", &thread_source);
  module.def("philox", &philox_words, py::arg("counter"), py::arg("key"));
}

}  // namespace pushforward
