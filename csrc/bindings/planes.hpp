// What the bindings of the transforms of planes share: how many threads, which stores, and room for rows.
#pragma once

#include <algorithm>
#include <new>

#include "../cpu/planes.hpp"
#include "tensors.hpp"

namespace pushforward {

// Elements that are worth a thread.
constexpr int64_t least_plane_elements = 32768;

inline int plane_threads(int64_t elements) {
  if (elements < 2 * least_plane_elements) return 1;
  return int(std::min<int64_t>(torch_threads(), elements / least_plane_elements));
}

// Whether to write past the caches: if the operands outgrow them (as in combine), and every row is aligned for it.
inline bool plane_streams(int64_t bytes, int64_t row_bytes, std::initializer_list<const char*> outs) {
  constexpr int64_t past_cache_bytes = int64_t(32) << 20, alignment = 64;
  bool aligned = row_bytes % alignment == 0;
  for (const char* out : outs) aligned = aligned && reinterpret_cast<uintptr_t>(out) % alignment == 0;
  return aligned && bytes > past_cache_bytes;
}

struct Scratch {
  explicit Scratch(int64_t bytes) : address(static_cast<char*>(::operator new(size_t(bytes), std::align_val_t(64)))) {}
  ~Scratch() { ::operator delete(address, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* address;
};

}  // namespace pushforward
