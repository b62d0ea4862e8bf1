// What every source shares: how functions are marked, and which namespace an instruction set lives in.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define PF_HD __host__ __device__ __forceinline__
#else
#define PF_HD inline __attribute__((always_inline))
#endif

// Sources that are compiled once per instruction set get a namespace each. Were the names shared, the linker would keep
// one copy of a template for all of them, perhaps the AVX-512 one, and an older processor would meet it.
#ifndef PF_ISA
#define PF_ISA generic
#endif
