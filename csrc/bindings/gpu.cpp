// Kernels for GPUs, launched on the current device and a given stream, or emulated on the host.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <vector>

#include "../cuda/combine.hpp"
#include "module.hpp"
#include "noise_key.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

bool has_cuda() {
#if defined(PF_HAVE_CUDA)
  return true;
#else
  return false;
#endif
}

// A combination whose remaining inputs come with the call, as addresses.
class PreparedCombination {
 public:
  // `inputs`: addresses, or None for those to come. `weights`: [outputs][inputs + draws], or empty where there is a table. `groups`:
  // address (or 0), each, outer, run, inner. `keep`: what must live as long as this.
  PreparedCombination(bool emulated, int dtype, int64_t rows, int64_t row_size,
              const std::vector<std::optional<uintptr_t>>& inputs, const std::vector<uintptr_t>& outputs,
              const std::vector<std::vector<double>>& weights, uintptr_t table,
              const std::tuple<uintptr_t, bool, int64_t, int64_t, int64_t>& groups,
              const std::vector<KeyTuple>& noises, py::object keep)
      : emulated_(emulated), keep_(std::move(keep)) {
    if (inputs.size() > max_inputs || outputs.size() > max_outputs || noises.size() > max_draws) {
      throw py::value_error("too many operands");
    }
    job_.dtype = Dtype(dtype);
    job_.inputs = int(inputs.size());
    job_.outputs = int(outputs.size());
    job_.draws = int(noises.size());
    job_.rows = rows;
    job_.row_size = row_size;
    for (int k = 0; k < job_.inputs; ++k) {
      if (inputs[k]) {
        job_.in[k] = reinterpret_cast<const void*>(*inputs[k]);
      } else {
        missing_.push_back(k);
      }
    }
    for (int o = 0; o < job_.outputs; ++o) job_.out[o] = reinterpret_cast<void*>(outputs[o]);
    job_.table = reinterpret_cast<const void*>(table);
    if (!weights.empty()) {
      for (int o = 0; o < job_.outputs; ++o) {
        for (int t = 0; t < job_.inputs + job_.draws; ++t) job_.weight[o][t] = weights.at(o).at(t);
      }
    }
    uintptr_t groups_at;
    std::tie(groups_at, job_.each, job_.outer, job_.run, job_.inner) = groups;
    job_.groups = reinterpret_cast<const int64_t*>(groups_at);
    for (int d = 0; d < job_.draws; ++d) job_.noise[d] = noise_key(noises[d]);
  }

  void call(uintptr_t stream, uintptr_t status, const py::args& inputs) {
    if (inputs.size() != missing_.size()) {
      throw py::type_error("got " + std::to_string(inputs.size()) + " tensors, expected " +
                           std::to_string(missing_.size()));
    }
    for (size_t i = 0; i < missing_.size(); ++i) {
      const char* const input = as_address(inputs[i].ptr());
      check_apart(input, int(i));
      job_.in[missing_[i]] = input;
    }
    job_.stream = reinterpret_cast<void*>(stream);
    job_.status = reinterpret_cast<int32_t*>(status);
    run_combination(emulated_, job_);
  }

 private:
  // An output may be an input, but not share a part of its memory: other threads read what one has written.
  void check_apart(const char* input, int number) const {
    const int64_t bytes = job_.rows * job_.row_size * element_size(job_.dtype);
    for (int o = 0; o < job_.outputs; ++o) {
      const char* const out = static_cast<const char*>(job_.out[o]);
      if (input != out && input < out + bytes && out < input + bytes) {
        throw py::value_error("tensor " + std::to_string(number) + " partly overlaps output " + std::to_string(o));
      }
    }
  }

  bool emulated_;
  GpuCombination job_{};
  std::vector<int> missing_;
  py::object keep_;
};

void gpu_uniform(bool emulated, int dtype, int64_t rows, int64_t row_size, uintptr_t out, const KeyTuple& key,
                 uintptr_t stream) {
  const RandomJob job{Distribution::uniform, Dtype(dtype), rows,  row_size, noise_key(key),
                      reinterpret_cast<char*>(out), false};
  run_random(emulated, {job, reinterpret_cast<void*>(stream)});
}

std::tuple<int64_t, int64_t> emulated_traffic() {
  int64_t read, written;
  emulated::take_traffic(read, written);
  return {read, written};
}

}  // namespace

PF_BINDINGS(module) {
  module.def("has_cuda", &has_cuda);
  module.def("emulated_traffic", &emulated_traffic);
  py::class_<PreparedCombination>(module, "GpuCombination")
      .def(py::init<bool, int, int64_t, int64_t, const std::vector<std::optional<uintptr_t>>&,
                    const std::vector<uintptr_t>&, const std::vector<std::vector<double>>&, uintptr_t,
                    const std::tuple<uintptr_t, bool, int64_t, int64_t, int64_t>&, const std::vector<KeyTuple>&,
                    py::object>(),
           py::arg("emulated"), py::arg("dtype"), py::arg("rows"), py::arg("row_size"), py::arg("inputs"),
           py::arg("outputs"), py::arg("weights"), py::arg("table"), py::arg("groups"), py::arg("noises"),
           py::arg("keep"))
      .def("__call__", &PreparedCombination::call, py::arg("stream"), py::arg("status"));
  module.def("gpu_uniform", &gpu_uniform, py::arg("emulated"), py::arg("dtype"), py::arg("rows"), py::arg("row_size"),
             py::arg("out"), py::arg("key"), py::arg("stream"));
}

}  // namespace pushforward
