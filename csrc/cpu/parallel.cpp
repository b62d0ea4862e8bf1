#include "parallel.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>

namespace pushforward {

namespace generic {
int run(const Job& job, int64_t first, int64_t last);
}
#if defined(PF_HAVE_X86)
namespace avx2 {
int run(const Job& job, int64_t first, int64_t last);
}
namespace avx512 {
int run(const Job& job, int64_t first, int64_t last);
}
#endif

namespace {

struct Choice {
  const char* name;
  Engine engine;
};

std::vector<Choice> supported() {
  std::vector<Choice> found;
#if defined(PF_HAVE_X86)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  if (v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    found.push_back({"avx512", avx512::run});
  }
  if (v3) found.push_back({"avx2", avx2::run});
#endif
  found.push_back({"generic", generic::run});
  return found;
}

Choice& chosen() {
  static Choice choice = supported().front();
  return choice;
}

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
  const Job* job;
  Engine engine;
  std::atomic<int> status{0};

  // Shares end at multiples of 1024 elements, so that vectors of normals and cache lines belong to one thread.
  void run(int thread, int team) {
    const int64_t size = job->size(), unit = 1024, units = (size + unit - 1) / unit;
    const int64_t first = units * thread / team * unit, last = std::min(size, units * (thread + 1) / team * unit);
    if (first < last) status |= engine(*job, first, last);
  }
};

}  // namespace

int useful_threads(const Job& job, int threads) {
  // Measured on two cores: waking a second thread costs about as much as adding up 32 thousand elements.
  const int64_t least = job.draws > 0 ? 4096 : 32768;
  return int(std::min<int64_t>(threads, job.size() / least));
}

int run_parallel(const Job& job, int threads) {
  const int64_t size = job.size();
  if (size == 0) return 0;
  const Engine engine = chosen().engine;
  threads = useful_threads(job, threads);
  if (threads <= 1) return engine(job, 0, size);
  Share share{&job, engine};
  const OpenMP& omp = openmp();
  if (omp.parallel) {
    omp.parallel(
        [](void* data) {
          // The team may be smaller than asked (inside another parallel region it is one).
          static_cast<Share*>(data)->run(openmp().thread(), openmp().team());
        },
        &share, unsigned(threads), 0);
  } else {
    std::vector<std::thread> others;
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(&Share::run, &share, thread, threads);
    share.run(0, threads);
    for (std::thread& other : others) other.join();
  }
  return share.status;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Choice& choice : supported()) names.emplace_back(choice.name);
  return names;
}

std::string instruction_set() { return chosen().name; }

void use_instruction_set(const std::string& name) {
  for (const Choice& choice : supported()) {
    if (name == choice.name) {
      chosen() = choice;
      return;
    }
  }
  throw std::invalid_argument("this processor has no " + name);
}

std::string thread_source() { return openmp().parallel ? "OpenMP" : "std::thread"; }

}  // namespace pushforward
