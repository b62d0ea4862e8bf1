// Neighbouring columns: a row's even and odd elements as two vectors, and back.
#pragma once

#include "formats.hpp"

namespace pushforward::PF_ISA {

#if defined(__clang__)
#define PF_SHUFFLE(a, b, Mask, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PF_SHUFFLE(a, b, Mask, ...) __builtin_shuffle(a, b, Mask{__VA_ARGS__})
#endif

template <int... Lane>
struct LaneList {};
template <int count, int... Lane>
struct CountLanes : CountLanes<count - 1, count - 1, Lane...> {};
template <int... Lane>
struct CountLanes<0, Lane...> {
  using List = LaneList<Lane...>;
};

template <class Pack>
struct Pairs {
  static constexpr int width = sizeof(Pack) / sizeof(Pack{}[0]);
  static constexpr bool single = sizeof(Pack{}[0]) == 4;
  typedef int64_t Wide __attribute__((vector_size(vector_bytes)));
  template <bool, class A, class B>
  struct Choose {
    using Type = A;
  };
  template <class A, class B>
  struct Choose<false, A, B> {
    using Type = B;
  };
  using Mask = typename Choose<single, Ints, Wide>::Type;
  using All = typename CountLanes<width>::List;

  template <int... Lane>
  PF_HD static void split(Pack a, Pack b, Pack& even, Pack& odd, LaneList<Lane...>) {
    even = PF_SHUFFLE(a, b, Mask, (2 * Lane)...);
    odd = PF_SHUFFLE(a, b, Mask, (2 * Lane + 1)...);
  }
  template <int... Lane>
  PF_HD static void join(Pack even, Pack odd, Pack& a, Pack& b, LaneList<Lane...>) {
    a = PF_SHUFFLE(even, odd, Mask, (Lane / 2 + Lane % 2 * width)...);
    b = PF_SHUFFLE(even, odd, Mask, (width / 2 + Lane / 2 + Lane % 2 * width)...);
  }
};

// a, b: 2 * width consecutive elements.
template <class Pack>
PF_HD void split_pairs(Pack a, Pack b, Pack& even, Pack& odd) {
  Pairs<Pack>::split(a, b, even, odd, typename Pairs<Pack>::All{});
}
template <class Pack>
PF_HD void join_pairs(Pack even, Pack odd, Pack& a, Pack& b) {
  Pairs<Pack>::join(even, odd, a, b, typename Pairs<Pack>::All{});
}

// Calls step(i) for vectors of `width` elements that cover [first, last), where the last one overlaps the one before:
// elements are computed alone, so twice is the same as once. False, and nothing done, if there are too few elements.
template <int width, class Step>
PF_HD bool cover(int64_t first, int64_t last, Step step) {
  if (last - first < width) return false;
  int64_t i = first;
  for (; i + width <= last; i += width) step(i);
  if (i < last) step(last - width);
  return true;
}

template <class Format, bool past_cache = false>
PF_HD void put(typename Format::Stored* to, typename Format::Pack x) {
  typename Format::Check unused = {};
  Format::template store_pack<past_cache>(to, x, unused);
}

template <class Format>
PF_HD void put_one(typename Format::Stored* to, typename Format::Wide x) {
  uint64_t unused = 0;
  Format::store_one(to, x, unused);
}

}  // namespace pushforward::PF_ISA
