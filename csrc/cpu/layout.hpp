// Shape and strides of a job's operands: brought to the fewest dimensions in which all operands can be walked together.
#pragma once

#include <cstdint>
#include <vector>

#include "job.hpp"

namespace pushforward {

struct Layout {
  std::vector<int64_t> shape;
  std::vector<std::vector<int64_t>> strides;  // one row for each operand: inputs, outputs, then groups if there are any
};

// Fill in dims, shape, the operands' contiguity and strides, which `storage` then holds, and the runs of the groups.
// Dimensions from `fixed` on may change places, since their elements need not be numbered (fixed = all of them with
// noise, 1 with coefficients for each sample, else 0). Throws std::invalid_argument if more than max_dims dimensions remain.
void set_layout(Job& job, const Layout& layout, int fixed, std::vector<int64_t>& storage);

}  // namespace pushforward
