// A register's worth of numbers: compiler vectors (GCC and Clang), with intrinsics for the few operations that vectors
// lack or that compilers translate badly. Arithmetic between vectors is the same IEEE arithmetic as between numbers.
#pragma once

#include "../core/config.hpp"
#include "../core/lanes.hpp"
#include "../core/storage.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pushforward::PF_ISA {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif
constexpr int lanes = vector_bytes / 4;

typedef float Floats __attribute__((vector_size(vector_bytes)));
typedef double Doubles __attribute__((vector_size(vector_bytes)));
typedef int32_t Ints __attribute__((vector_size(vector_bytes)));
typedef uint32_t Words32 __attribute__((vector_size(vector_bytes)));
typedef uint64_t Words64 __attribute__((vector_size(vector_bytes)));
typedef uint16_t Shorts __attribute__((vector_size(vector_bytes / 2)));

template <class Vector>
PF_HD Vector load(const void* from) {
  Vector value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

template <class Vector>
PF_HD void store(void* to, Vector value) {
  __builtin_memcpy(to, &value, sizeof(value));
}

struct ManyLanes {
  using F = Floats;
  using I = Ints;
  using U = Words32;

  template <class To, class From>
  PF_HD static To bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    return (To)x;
  }

  PF_HD static F to_float(I x) { return __builtin_convertvector(x, F); }
  PF_HD static F to_float(U x) {
#if defined(__AVX512F__)
    return (F)_mm512_cvtepu32_ps((__m512i)x);
#else
    // Both halves are exact, so the sum is rounded once, like the conversion.
    return to_float(I(x >> 16)) * 65536.0f + to_float(I(x & 0xFFFFu));
#endif
  }

  PF_HD static F sqrt(F x) {
#if defined(__AVX512F__)
    return (F)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__)
    return (F)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (F)_mm_sqrt_ps((__m128)x);
#else
    F root;
    for (int i = 0; i < lanes; ++i) root[i] = __builtin_sqrtf(x[i]);
    return root;
#endif
  }

  PF_HD static F select(I mask, F yes, F no) { return (F)(((I)yes & mask) | ((I)no & ~mask)); }
};

// 32-bit lanes kept in two vectors of 64-bit lanes, even and odd ones. Vector units multiply 32 by 32 bits into 64, and
// this way a round of Philox needs no shuffling. What is above bit 31 of a lane is left as it comes and never read.
struct Halves {
  Words64 even, odd;

  PF_HD friend Halves operator^(Halves a, Halves b) { return {a.even ^ b.even, a.odd ^ b.odd}; }
  PF_HD friend Halves operator+(Halves a, uint32_t b) { return {a.even + b, a.odd + b}; }
};

PF_HD Halves split(Words32 x) { return {(Words64)x, (Words64)x >> 32}; }
PF_HD Words32 join(Halves x) { return (Words32)((x.even & 0xFFFFFFFFu) | (x.odd << 32)); }

struct SplitLanes {
  using U = Halves;

  PF_HD static Words64 multiply(Words64 a, uint32_t b) {
#if defined(__AVX512F__)
    return (Words64)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(int64_t(b)));
#elif defined(__AVX2__)
    return (Words64)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(int64_t(b)));
#elif defined(__SSE2__)
    return (Words64)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(int64_t(b)));
#else
    return (a & 0xFFFFFFFFu) * uint64_t(b);
#endif
  }
  PF_HD static void multiply(U a, uint32_t b, U& high, U& low) {
    low = {multiply(a.even, b), multiply(a.odd, b)};
    high = {low.even >> 32, low.odd >> 32};
  }
};

// The blocks of four numbers that a vector step makes are stored one after the other. Lane l of 32 bits must hold block
// (l % 4) * (lanes / 4) + l / 4: then shuffles within 128 bits are enough.
PF_HD int block_of_lane(int lane) { return (lane % 4) * (lanes / 4) + lane / 4; }

#if defined(__AVX512F__)
#define PF_INTRINSIC(name) _mm512_##name
using FloatRegister = __m512;
using DoubleRegister = __m512d;
#elif defined(__AVX__)
#define PF_INTRINSIC(name) _mm256_##name
using FloatRegister = __m256;
using DoubleRegister = __m256d;
#elif defined(__SSE2__)
#define PF_INTRINSIC(name) _mm_##name
using FloatRegister = __m128;
using DoubleRegister = __m128d;
#endif

// Vectors of the first, second, third and fourth numbers of the blocks.
PF_HD void store_blocks(float* to, Floats z0, Floats z1, Floats z2, Floats z3) {
#if defined(PF_INTRINSIC)
  using V = FloatRegister;
  const DoubleRegister low01 = PF_INTRINSIC(castps_pd)(PF_INTRINSIC(unpacklo_ps)((V)z0, (V)z1));
  const DoubleRegister low23 = PF_INTRINSIC(castps_pd)(PF_INTRINSIC(unpacklo_ps)((V)z2, (V)z3));
  const DoubleRegister high01 = PF_INTRINSIC(castps_pd)(PF_INTRINSIC(unpackhi_ps)((V)z0, (V)z1));
  const DoubleRegister high23 = PF_INTRINSIC(castps_pd)(PF_INTRINSIC(unpackhi_ps)((V)z2, (V)z3));
  store(to, PF_INTRINSIC(unpacklo_pd)(low01, low23));
  store(to + lanes, PF_INTRINSIC(unpackhi_pd)(low01, low23));
  store(to + 2 * lanes, PF_INTRINSIC(unpacklo_pd)(high01, high23));
  store(to + 3 * lanes, PF_INTRINSIC(unpackhi_pd)(high01, high23));
#else
  for (int lane = 0; lane < lanes; ++lane) {
    const float block[4] = {z0[lane], z1[lane], z2[lane], z3[lane]};
    __builtin_memcpy(to + 4 * block_of_lane(lane), block, sizeof(block));
  }
#endif
}

// Blocks of two numbers of 64 bits: vectors of the first and second ones in the even lanes, then in the odd lanes.
PF_HD void store_pairs(double* to, Doubles even0, Doubles even1, Doubles odd0, Doubles odd1) {
#if defined(PF_INTRINSIC)
  using V = DoubleRegister;
  store(to, PF_INTRINSIC(unpacklo_pd)((V)even0, (V)even1));
  store(to + lanes / 2, PF_INTRINSIC(unpacklo_pd)((V)odd0, (V)odd1));
  store(to + lanes, PF_INTRINSIC(unpackhi_pd)((V)even0, (V)even1));
  store(to + 3 * lanes / 2, PF_INTRINSIC(unpackhi_pd)((V)odd0, (V)odd1));
#else
  for (int lane = 0; lane < lanes; ++lane) {
    const double block[2] = {(lane % 2 ? odd0 : even0)[lane / 2], (lane % 2 ? odd1 : even1)[lane / 2]};
    __builtin_memcpy(to + 2 * block_of_lane(lane), block, sizeof(block));
  }
#endif
}
#undef PF_INTRINSIC

// Write past the caches, to memory that nobody reads soon: an ordinary store first reads the line it replaces. The
// address must be a multiple of the vector's size; stream_fence() before another thread reads it.
template <class Vector>
PF_HD void stream(void* to, Vector value) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Vector) == 64) return _mm512_stream_si512((__m512i*)to, (__m512i)value);
#endif
#if defined(__AVX__)
  if constexpr (sizeof(Vector) == 32) return _mm256_stream_si256((__m256i*)to, (__m256i)value);
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(Vector) == 16) return _mm_stream_si128((__m128i*)to, (__m128i)value);
#endif
  store(to, value);
}

inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace pushforward::PF_ISA
