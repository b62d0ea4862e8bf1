// The key of a draw as Python hands it over: seed, purpose, step, stage, attempt, and the address of the samples' ids.
#pragma once

#include <pybind11/pybind11.h>

#include "../cpu/job.hpp"

namespace pushforward {

using KeyTuple = std::tuple<uint64_t, uint32_t, uint32_t, uint32_t, uint32_t, uintptr_t>;

inline NoiseKey noise_key(const KeyTuple& key) {
  const auto [seed, purpose, step, stage, attempt, samples] = key;
  return {seed, purpose, step, stage, attempt, reinterpret_cast<const int64_t*>(samples)};
}

}  // namespace pushforward
