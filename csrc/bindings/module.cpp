// The Python module pushforward.kernels._native. It knows tensors by their names for things, addresses, shapes and
// strides, and so links neither torch nor OpenMP. Every file beside this one adds the functions of its family.
#include "module.hpp"

#include <pybind11/stl.h>

#include <array>
#include <vector>

#include "../core/lanes.hpp"
#include "../core/philox.hpp"
#include "../cpu/isa.hpp"
#include "../cpu/parallel.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

std::vector<Bindings>& all_bindings() {
  static std::vector<Bindings> bindings;
  return bindings;
}

// For the known-answer test.
std::array<uint32_t, 4> philox_words(const std::array<uint32_t, 4>& c, const std::array<uint32_t, 2>& k) {
  const auto words = generic::philox<generic::OneLane>(c[0], c[1], c[2], c[3], k[0], k[1]);
  return {words.w[0], words.w[1], words.w[2], words.w[3]};
}

}  // namespace

AddBindings::AddBindings(Bindings bindings) { all_bindings().push_back(bindings); }

PYBIND11_MODULE(_native, module) {
  module.doc() = "Compiled kernels of pushforward; use pushforward.kernels.";
  module.def("set_torch", &set_torch);
  module.def("instruction_sets", &instruction_sets);
  module.def("instruction_set", &instruction_set);
  module.def("use_instruction_set", &use_instruction_set);
  module.def("thread_source", &thread_source);
  module.def("philox", &philox_words, py::arg("counter"), py::arg("key"));
  for (const Bindings bindings : all_bindings()) bindings(module);
}

}  // namespace pushforward
