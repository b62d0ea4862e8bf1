// What the bindings call: functions that launch kernels on the current device, or emulate them on the host.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace pushforward::emulated {

// Bytes of tensors that emulated kernels have read and written since this was last asked.
void take_traffic(int64_t& read, int64_t& written);

}  // namespace pushforward::emulated

// Within namespace pushforward, PF_GPU_FUNCTION(run_scale, ScaleJob) declares run_scale(const ScaleJob&), which a .cu file
// defines in the namespace PF_ISA, and defines run_scale(emulated, job), which calls it in one of the two.
#if defined(PF_HAVE_CUDA)
#define PF_GPU_FUNCTION(name, Job)                                         \
  namespace cuda {                                                         \
  void name(const Job& job);                                               \
  }                                                                        \
  namespace emulated {                                                     \
  void name(const Job& job);                                               \
  }                                                                        \
  inline void name(bool in_emulation, const Job& job) {                    \
    in_emulation ? emulated::name(job) : cuda::name(job);                  \
  }
#else
#define PF_GPU_FUNCTION(name, Job)                                         \
  namespace cuda {                                                         \
  void name(const Job& job);                                               \
  }                                                                        \
  namespace emulated {                                                     \
  void name(const Job& job);                                               \
  }                                                                        \
  inline void name(bool in_emulation, const Job& job) {                    \
    if (!in_emulation) throw std::runtime_error("built without CUDA");     \
    emulated::name(job);                                                   \
  }
#endif
