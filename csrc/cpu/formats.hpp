// The four storage formats: how a vector, or one number, is read, widened, narrowed, written and tested.
#pragma once

#include "simd.hpp"

namespace pushforward::PF_ISA {

// Each format has Stored (in memory), Wide (accumulation), Pack (`width` wide numbers), Check (collects the finiteness
// test): adding one to the exponent field carries into the sign bit exactly where the number is infinite or a NaN.

struct Float32 {
  using Stored = float;
  using Wide = float;
  using Pack = Floats;
  using Check = Words32;
  static constexpr int width = lanes;

  PF_HD static Pack load_pack(const Stored* p) { return load<Floats>(p); }
  template <bool past_cache>
  PF_HD static void store_pack(Stored* p, Pack x, Check& check) {
    past_cache ? stream(p, x) : store(p, x);
    check |= ((Words32)x & 0x7F800000u) + 0x00800000u;
  }
  PF_HD static Wide load_one(const Stored* p) { return *p; }
  PF_HD static void store_one(Stored* p, Wide x, uint64_t& check) {
    *p = x;
    check |= (OneLane::bits<uint32_t>(x) & 0x7F800000u) + 0x00800000u;
  }
  PF_HD static Pack widen_normals(const float* p) { return load<Floats>(p); }
  static constexpr uint64_t sign = 0x80000000u;
};

struct Float64 {
  using Stored = double;
  using Wide = double;
  using Pack = Doubles;
  using Check = Words64;
  static constexpr int width = lanes / 2;

  PF_HD static Pack load_pack(const Stored* p) { return load<Doubles>(p); }
  template <bool past_cache>
  PF_HD static void store_pack(Stored* p, Pack x, Check& check) {
    past_cache ? stream(p, x) : store(p, x);
    check |= ((Words64)x & 0x7FF0000000000000u) + 0x0010000000000000u;
  }
  PF_HD static Wide load_one(const Stored* p) { return *p; }
  PF_HD static void store_one(Stored* p, Wide x, uint64_t& check) {
    *p = x;
    check |= (OneLane::bits<uint64_t>(x) & 0x7FF0000000000000u) + 0x0010000000000000u;
  }
  PF_HD static Pack widen_normals(const float* p) {
    typedef float Narrow __attribute__((vector_size(vector_bytes / 2)));
    return __builtin_convertvector(load<Narrow>(p), Doubles);
  }
  static constexpr uint64_t sign = 0x8000000000000000u;
};

template <class Format>
struct Sixteen {
  using Wide = float;
  using Pack = Floats;
  using Check = Words32;
  static constexpr int width = lanes;
  static constexpr uint64_t sign = 0x8000u;

  template <class Stored>
  PF_HD static Pack load_pack(const Stored* p) {
    return Format::template widen<ManyLanes>(__builtin_convertvector(load<Shorts>(p), Words32));
  }
  template <bool past_cache, class Stored>
  PF_HD static void store_pack(Stored* p, Pack x, Check& check) {
    const Words32 bits = Format::template narrow<ManyLanes>(x);
    const Shorts packed = __builtin_convertvector(bits, Shorts);
    past_cache ? stream(p, packed) : store(p, packed);
    check |= (bits & Format::exponent) + Format::exponent_one;
  }
  template <class Stored>
  PF_HD static Wide load_one(const Stored* p) {
    return Format::template widen<OneLane>(uint32_t(p->bits));
  }
  template <class Stored>
  PF_HD static void store_one(Stored* p, Wide x, uint64_t& check) {
    const uint32_t bits = Format::template narrow<OneLane>(x);
    p->bits = uint16_t(bits);
    check |= (bits & Format::exponent) + Format::exponent_one;
  }
  PF_HD static Pack widen_normals(const float* p) { return load<Floats>(p); }
};

struct Brain : Sixteen<Brain> {
  using Stored = BFloat16;
  static constexpr uint32_t exponent = 0x7F80u, exponent_one = 0x0080u;
  template <class Lanes>
  PF_HD static typename Lanes::F widen(typename Lanes::U bits) {
    return widen_bfloat16<Lanes>(bits);
  }
  template <class Lanes>
  PF_HD static typename Lanes::U narrow(typename Lanes::F x) {
    return narrow_bfloat16<Lanes>(x);
  }
};

struct Float16 : Sixteen<Float16> {
  using Stored = Half;
  static constexpr uint32_t exponent = 0x7C00u, exponent_one = 0x0400u;
  template <class Lanes>
  PF_HD static typename Lanes::F widen(typename Lanes::U bits) {
    return widen_half<Lanes>(bits);
  }
  template <class Lanes>
  PF_HD static typename Lanes::U narrow(typename Lanes::F x) {
    return narrow_half<Lanes>(x);
  }
// Processors convert half precision themselves, to the same bits (a NaN may keep more of its payload).
#if defined(__AVX512F__)
  PF_HD static Pack load_pack(const Stored* p) { return (Pack)_mm512_cvtph_ps(load<__m256i>(p)); }
#elif defined(__F16C__)
  PF_HD static Pack load_pack(const Stored* p) { return (Pack)_mm256_cvtph_ps(load<__m128i>(p)); }
#endif
};

#if defined(__AVX512F__)
template <>
PF_HD Words32 Float16::narrow<ManyLanes>(Floats x) {
  return (Words32)_mm512_cvtepu16_epi32(_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(__F16C__)
template <>
PF_HD Words32 Float16::narrow<ManyLanes>(Floats x) {
  return (Words32)_mm256_cvtepu16_epi32(_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#endif

}  // namespace pushforward::PF_ISA
