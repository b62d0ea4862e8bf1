// How a kernel for GPUs is written and launched, so that one text runs on a device and, block by block and thread by
// thread, on the host: nvcc compiles the .cu files of this folder into the namespace `cuda`, the C++ compiler compiles
// the same files into `emulated`.
//
// A kernel is a struct of arguments with
//
//   static constexpr int threads;   // of a block
//   static constexpr int phases;    // between two phases, all threads of a block wait for each other
//   struct Shared { ... };          // memory of a block
//   struct Local { ... };           // memory of a thread, from phase to phase
//   template <int phase> PF_HD void run(Place at, Shared& shared, Local& local) const;
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "../core/config.hpp"

#if !defined(__CUDACC__)
#include <stdexcept>
#include <vector>
#endif

namespace pushforward::PF_ISA {

struct Place {
  int64_t block;
  int thread;
};

struct Nothing {};

#if defined(__CUDACC__)

void check_launch(const char* what);  // throws std::runtime_error if the last launch failed

template <class Kernel, int... phase>
__device__ __forceinline__ void run_phases(const Kernel& kernel, std::integer_sequence<int, phase...>) {
  __shared__ typename Kernel::Shared shared;
  typename Kernel::Local local;
  const Place at = {int64_t(blockIdx.x), int(threadIdx.x)};
  (((phase > 0 ? __syncthreads() : void()), kernel.template run<phase>(at, shared, local)), ...);
}

template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads, 1) on_device(const __grid_constant__ Kernel kernel) {
  run_phases(kernel, std::make_integer_sequence<int, Kernel::phases>());
}

template <class Kernel>
void launch(int64_t blocks, const Kernel& kernel, void* stream) {
  if (blocks == 0) return;
  on_device<<<dim3(unsigned(blocks)), dim3(Kernel::threads), 0, static_cast<cudaStream_t>(stream)>>>(kernel);
  check_launch(__PRETTY_FUNCTION__);
}

#else

// Bytes of tensors that emulated kernels have read and written through read() and write().
struct Traffic {
  int64_t read, written;
};
extern Traffic traffic;

// One phase of all threads of a block, then the next one: what __syncthreads() promises, and no more. Memory of a block
// starts as bytes of no meaning, as on a device.
template <class Kernel, int... phase>
void run_block(const Kernel& kernel, int64_t block, typename Kernel::Shared& shared,
               std::vector<typename Kernel::Local>& locals, std::integer_sequence<int, phase...>) {
  const auto all_threads = [&](auto constant) {
    for (int thread = 0; thread < Kernel::threads; ++thread) {
      kernel.template run<decltype(constant)::value>(Place{block, thread}, shared, locals[size_t(thread)]);
    }
  };
  (all_threads(std::integral_constant<int, phase>()), ...);
}

template <class Kernel>
void launch(int64_t blocks, const Kernel& kernel, void*) {
  if (blocks < 0 || blocks > INT32_MAX) throw std::runtime_error("more blocks than a grid has");
  std::vector<typename Kernel::Local> locals(Kernel::threads);
  for (int64_t block = 0; block < blocks; ++block) {
    union Memory {  // no constructor runs
      typename Kernel::Shared shared;
      unsigned char bytes[sizeof(typename Kernel::Shared)];
      Memory() {
        for (unsigned char& byte : bytes) byte = 0xA5;
      }
    } memory;
    run_block(kernel, block, memory.shared, locals, std::make_integer_sequence<int, Kernel::phases>());
  }
}

#endif

// What blocks share in global memory.
PF_HD void atomic_or(int32_t* to, int32_t bits) {
#if defined(__CUDA_ARCH__)
  atomicOr(to, bits);
#else
  *to |= bits;
#endif
}

PF_HD void atomic_add(int64_t* to, int64_t number) {
#if defined(__CUDA_ARCH__)
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(number));
#else
  *to += number;
#endif
}

// A number that many threads read: the id of a sample, a step size, a coefficient. By the read-only cache, so that it can
// be told from the accesses to tensors in the machine code.
template <class T>
PF_HD T scalar(const T* at) {
#if defined(__CUDA_ARCH__)
  return __ldg(at);
#else
  return *at;
#endif
}

// A number that a block makes of many: its sum, an error norm. As one that will not be read again soon, to be told from
// the accesses to tensors.
PF_HD void store_scalar(double* at, double number) {
#if defined(__CUDA_ARCH__)
  __stcs(at, number);
#else
  *at = number;
#endif
}

// Writes 16 bytes at once: nvcc makes four stores of an assignment.
PF_HD void store_128(void* to, const uint32_t (&words)[4]) {
#if defined(__CUDA_ARCH__)
  __stwb(static_cast<uint4*>(to), make_uint4(words[0], words[1], words[2], words[3]));
#else
  memcpy(to, words, sizeof(words));
#endif
}

struct alignas(16) Bits128 {
  uint32_t words[4];
};

inline bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

// Neighbours are read and written 16 bytes at once where `aligned`, which the host checks and a device dies of.
template <bool aligned, bool is_write>
PF_HD void account([[maybe_unused]] const void* address, [[maybe_unused]] int64_t bytes) {
#if !defined(__CUDACC__)
  if (aligned && !is_aligned(address)) throw std::runtime_error("a misaligned access of 128 bits");
  (is_write ? traffic.written : traffic.read) += bytes;
#endif
}

// Read or write `count` of N neighbours, at 16 bytes each where `aligned` (all N must be there then).
template <bool aligned, int N, class T>
PF_HD void read(const T* from, int count, T (&to)[N]) {
  account<aligned, false>(from, (count < N ? count : N) * int64_t(sizeof(T)));
  if constexpr (aligned) {
    constexpr int several = int(sizeof(Bits128) / sizeof(T));
#pragma unroll
    for (int i = 0; i < N; i += several) {
      const Bits128 bits = *reinterpret_cast<const Bits128*>(from + i);
      memcpy(to + i, bits.words, sizeof(bits));
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = i < count ? from[i] : T{};
  }
}

template <bool aligned, int N, class T>
PF_HD void write(T* to, int count, const T (&from)[N]) {
  account<aligned, true>(to, (count < N ? count : N) * int64_t(sizeof(T)));
  if constexpr (aligned) {
    constexpr int several = int(sizeof(Bits128) / sizeof(T));
#pragma unroll
    for (int i = 0; i < N; i += several) {
      uint32_t words[4];
      memcpy(words, from + i, sizeof(words));
      store_128(to + i, words);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (i < count) to[i] = from[i];
    }
  }
}

// A quotient and what is left, in 32 bits where they suffice: a division of 64 bits is a long subroutine on a GPU.
struct Split {
  int64_t quotient, rest;

  PF_HD Split(int64_t number, int64_t divisor) {
    if (uint64_t(number) <= UINT32_MAX && uint64_t(divisor) <= UINT32_MAX) {
      quotient = int64_t(uint32_t(number) / uint32_t(divisor));
    } else {
      quotient = number / divisor;
    }
    rest = number - quotient * divisor;
  }
};

inline int64_t ceil_division(int64_t number, int64_t divisor) { return (number + divisor - 1) / divisor; }

}  // namespace pushforward::PF_ISA
