// Runs work on several threads: those of torch's own pool.
#pragma once

#include <cstdint>
#include <string>

namespace pushforward {

// Call body(data, first, last) for stretches that cover [0, units), each on one of at most `threads` threads. Which
// stretches is not for the result to depend on: reduce within units, and combine what units give in their order.
void parallel_ranges(int64_t units, int threads, void (*body)(void* data, int64_t first, int64_t last), void* data);

template <class Body>
void parallel_for(int64_t units, int threads, Body&& body) {
  auto* it = &body;
  parallel_ranges(
      units, threads,
      [](void* data, int64_t first, int64_t last) { (*static_cast<decltype(it)>(data))(first, last); }, it);
}

// Where the threads come from: "OpenMP" (the pool torch already has) or "std::thread".
std::string thread_source();

}  // namespace pushforward
