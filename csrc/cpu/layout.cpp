#include "layout.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace pushforward {

void set_layout(Job& job, const Layout& layout, int fixed, std::vector<int64_t>& storage) {
  const int given = int(layout.shape.size()), operands = int(layout.strides.size());
  std::vector<int> order(given);
  std::iota(order.begin(), order.end(), 0);
  // Walk in the memory order of the first output: channels-last and other permuted tensors become plain ones.
  const std::vector<int64_t>& guide = layout.strides[job.inputs];
  std::stable_sort(order.begin() + std::min(fixed, given), order.end(),
                   [&](int a, int b) { return guide[a] > guide[b]; });

  std::vector<int64_t> shape;
  std::vector<std::vector<int64_t>> strides(operands);
  for (const int d : order) {
    const int64_t size = layout.shape[d];
    if (size == 1) continue;
    bool merges = !shape.empty();
    for (int t = 0; t < operands && merges; ++t) merges = strides[t].back() == size * layout.strides[t][d];
    if (merges) {
      shape.back() *= size;
      for (int t = 0; t < operands; ++t) strides[t].back() = layout.strides[t][d];
    } else {
      shape.push_back(size);
      for (int t = 0; t < operands; ++t) strides[t].push_back(layout.strides[t][d]);
    }
  }
  if (int(shape.size()) > max_dims) throw std::invalid_argument("more than 16 dimensions that cannot be merged");
  if (shape.empty()) {
    shape.push_back(1);
    for (auto& row : strides) row.push_back(1);
  }

  job.dims = int(shape.size());
  std::copy(shape.begin(), shape.end(), job.shape);
  storage.resize(size_t(operands * job.dims));
  for (int t = 0; t < operands; ++t) {
    std::copy(strides[t].begin(), strides[t].end(), storage.begin() + t * job.dims);
    if (t == job.inputs + job.outputs) {
      Groups& groups = job.groups;
      groups.strides = storage.data() + t * job.dims;
      groups.dims = job.dims;
      groups.run = 1;
      for (; groups.dims > 0 && groups.strides[groups.dims - 1] == 0; --groups.dims) groups.run *= shape[groups.dims - 1];
      continue;
    }
    Operand& operand = t < job.inputs ? job.in[t] : job.out[t - job.inputs];
    operand.strides = storage.data() + t * job.dims;
    operand.contiguous = true;
    int64_t expected = 1;
    for (int d = job.dims - 1; d >= 0; --d) {
      operand.contiguous = operand.contiguous && strides[t][d] == expected;
      expected *= shape[d];
    }
  }
}

}  // namespace pushforward
