// Radix selection on the bits of |x|: one histogram of the leading eleven bits, then only the elements of one bin.
#include "../threshold.hpp"

#include "../../core/threshold.hpp"
#include "../formats.hpp"

namespace pushforward::PF_ISA {
namespace {

constexpr int digit_bits = 11;

template <class Format>
struct Keys;
template <>
struct Keys<Float32> {
  using Key = uint32_t;
  static constexpr int bits = 31;
  static constexpr Key infinity = 0x7F800000u;
};
template <>
struct Keys<Float64> {
  using Key = uint64_t;
  static constexpr int bits = 63;
  static constexpr Key infinity = 0x7FF0000000000000u;
};
template <>
struct Keys<Brain> {
  using Key = uint16_t;
  static constexpr int bits = 15;
  static constexpr Key infinity = 0x7F80u;
};
template <>
struct Keys<Float16> {
  using Key = uint16_t;
  static constexpr int bits = 15;
  static constexpr Key infinity = 0x7C00u;
};

template <class Format>
PF_HD auto key_at(const char* x, int64_t i) {
  using Key = typename Keys<Format>::Key;
  Key key;
  __builtin_memcpy(&key, x + i * int64_t(sizeof(Key)), sizeof(Key));
  return Key(key & Key(Key(~Key(0)) >> 1));
}

template <class Format>
bool count(const ThresholdJob& job, int64_t begin, int64_t end, uint32_t* histogram) {
  constexpr int shift = Keys<Format>::bits - digit_bits;
  // Neighbours often share a bin, and an increment waits for the one before it: two histograms halve the wait.
  uint32_t other[threshold_bins] = {};
  bool nan = false;
  int64_t i = begin;
  for (; i + 1 < end; i += 2) {
    const auto first = key_at<Format>(job.x, i), second = key_at<Format>(job.x, i + 1);
    ++histogram[first >> shift];
    ++other[second >> shift];
    nan |= (first > Keys<Format>::infinity) | (second > Keys<Format>::infinity);
  }
  if (i < end) {
    const auto key = key_at<Format>(job.x, i);
    ++histogram[key >> shift];
    nan |= key > Keys<Format>::infinity;
  }
  for (int bin = 0; bin < threshold_bins; ++bin) histogram[bin] += other[bin];
  return nan;
}

template <class Format>
int64_t collect(const ThresholdJob& job, int64_t begin, int64_t end, int bin, void* keys, uint64_t* next) {
  using Key = typename Keys<Format>::Key;
  constexpr int shift = Keys<Format>::bits - digit_bits;
  Key* found = static_cast<Key*>(keys);
  const Key low = Key(Key(bin) << shift), width = Key(Key(1) << shift);
  const Key above = Key(low + width);
  Key least = Key(~Key(0));
  int64_t count = 0, i = begin;
  if constexpr (sizeof(Key) == 4) {
    // Most vectors have no key of the bin, and one comparison says so.
    Words32 least_of = {};
    least_of = ~least_of;
    for (; i + lanes <= end; i += lanes) {
      const Words32 key = load<Words32>(job.x + i * 4) & 0x7FFFFFFFu;
      const Words32 high = key >= above ? key : ~(key ^ key);
      least_of = high < least_of ? high : least_of;
      const Words32 inside = (Words32)(key - low < width);
#if defined(__AVX512F__)
      const __mmask16 mask = _mm512_movepi32_mask((__m512i)inside);
      if (mask) {
        store(found + count, (Words32)_mm512_maskz_compress_epi32(mask, (__m512i)key));
        count += __builtin_popcount(mask);
      }
#else
      for (int lane = 0; lane < lanes; ++lane) {
        found[count] = key[lane];
        count += inside[lane] & 1;
      }
#endif
    }
    for (int lane = 0; lane < lanes; ++lane) least = least_of[lane] < least ? least_of[lane] : least;
  }
  for (; i < end; ++i) {
    const Key key = key_at<Format>(job.x, i);
    found[count] = key;
    count += Key(key - low) < width;
    least = key >= above && key < least ? key : least;
  }
  if (least < *next) *next = least;
  return count;
}

template <class Format>
typename Format::Wide number_of(uint64_t key) {
  const auto bits = typename Keys<Format>::Key(key);
  typename Format::Stored value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return Format::load_one(&value);
}

template <class Format>
double select(const ThresholdJob& job, void* candidates, int64_t count, int64_t rank, uint64_t next) {
  using Key = typename Keys<Format>::Key;
  using Wide = typename Format::Wide;
  Key* keys = static_cast<Key*>(candidates);
  // One digit after the other, keeping the keys that share all digits so far; the last digit leaves equal keys.
  for (int low = Keys<Format>::bits - digit_bits; low > 0;) {
    const int width = low < digit_bits ? low : digit_bits;
    low -= width;
    const Key mask = Key((1u << width) - 1);
    int64_t histogram[threshold_bins] = {};
    for (int64_t i = 0; i < count; ++i) ++histogram[(keys[i] >> low) & mask];
    int bin = 0;
    while (rank >= histogram[bin]) rank -= histogram[bin++];
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      const Key key = keys[i];
      const int digit = int((key >> low) & mask);
      if (digit > bin && key < next) next = key;
      keys[kept] = key;
      kept += digit == bin;
    }
    count = kept;
  }
  const Wide smaller = number_of<Format>(keys[0]);
  const bool last = rank + 1 == count;
  const Wide larger = last && job.fraction > 0 ? number_of<Format>(next) : smaller;
  return limit_of<Wide>(smaller, larger, Wide(job.fraction), Wide(job.floor), Wide(job.cap));
}

template <class Format>
void write(const ThresholdJob& job, int64_t begin, int64_t end, double limit) {
  using Wide = typename Format::Wide;
  using Pack = typename Format::Pack;
  const auto* x = reinterpret_cast<const typename Format::Stored*>(job.x);
  auto* out = reinterpret_cast<typename Format::Stored*>(job.out);
  const Wide bound = Wide(limit), scale = Wide(job.floor) / bound;
  const Pack bounds = Pack{} + bound, scales = Pack{} + scale;
  typename Format::Check unused{};
  uint64_t unused_one = 0;
  int64_t i = begin;
  for (; i + Format::width <= end; i += Format::width) {
    Format::template store_pack<false>(out + i, limited(Format::load_pack(x + i), bounds, scales), unused);
  }
  for (; i < end; ++i) Format::store_one(out + i, limited(Format::load_one(x + i), bound, scale), unused_one);
}

}  // namespace

#define PF_BY_FORMAT(function, ...)           \
  switch (job.dtype) {                        \
    case Dtype::float32:                      \
      return function<Float32>(__VA_ARGS__);  \
    case Dtype::float64:                      \
      return function<Float64>(__VA_ARGS__);  \
    case Dtype::bfloat16:                     \
      return function<Brain>(__VA_ARGS__);    \
    default:                                  \
      return function<Float16>(__VA_ARGS__);  \
  }

bool threshold_count(const ThresholdJob& job, int64_t begin, int64_t end, uint32_t* histogram) {
  PF_BY_FORMAT(count, job, begin, end, histogram)
}

int64_t threshold_collect(const ThresholdJob& job, int64_t begin, int64_t end, int bin, void* keys, uint64_t* next) {
  PF_BY_FORMAT(collect, job, begin, end, bin, keys, next)
}

double threshold_select(const ThresholdJob& job, void* keys, int64_t count, int64_t rank, uint64_t next) {
  PF_BY_FORMAT(select, job, keys, count, rank, next)
}

void threshold_write(const ThresholdJob& job, int64_t begin, int64_t end, double limit) {
  PF_BY_FORMAT(write, job, begin, end, limit)
}

#undef PF_BY_FORMAT

}  // namespace pushforward::PF_ISA
