#include "parallel.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace pushforward {
namespace {

// The OpenMP runtime that torch has loaded, found at run time: its threads are awake already, and a second pool would
// fight it for the cores. GOMP_parallel is what compiled `#pragma omp parallel` calls; the runtimes of GNU, LLVM and
// Intel all have it.
struct OpenMP {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*thread)() = nullptr;
  int (*team)() = nullptr;
};

const OpenMP& openmp() {
  static const OpenMP found = [] {
    OpenMP omp;
    omp.parallel = reinterpret_cast<decltype(omp.parallel)>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    omp.thread = reinterpret_cast<decltype(omp.thread)>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
    omp.team = reinterpret_cast<decltype(omp.team)>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
    if (!omp.parallel || !omp.thread || !omp.team) omp.parallel = nullptr;
    return omp;
  }();
  return found;
}

struct Share {
  int64_t units;
  void (*body)(void*, int64_t, int64_t);
  void* data;

  void run(int thread, int team) const {
    const int64_t first = units * thread / team, last = units * (thread + 1) / team;
    if (first < last) body(data, first, last);
  }
};

}  // namespace

void parallel_ranges(int64_t units, int threads, void (*body)(void*, int64_t, int64_t), void* data) {
  threads = int(std::min<int64_t>(threads, units));
  if (units <= 0) return;
  if (threads <= 1) return body(data, 0, units);
  Share share{units, body, data};
  const OpenMP& omp = openmp();
  if (omp.parallel) {
    omp.parallel(
        [](void* of_team) {
          // The team may be smaller than asked (inside another parallel region it is one).
          static_cast<const Share*>(of_team)->run(openmp().thread(), openmp().team());
        },
        &share, unsigned(threads), 0);
    return;
  }
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(&Share::run, &share, thread, threads);
  share.run(0, threads);
  for (std::thread& other : others) other.join();
}

std::string thread_source() { return openmp().parallel ? "OpenMP" : "std::thread"; }

}  // namespace pushforward
