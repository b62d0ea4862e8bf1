// Halving and doubling planes, a row of results at a time. Compiled once for each instruction set; no standard templates.
#include "../pairs.hpp"
#include "../planes.hpp"

namespace pushforward::PF_ISA {
namespace {

PF_HD int64_t clamped(int64_t at, int64_t size) { return at < 0 ? 0 : at < size ? at : size - 1; }

// Sum of a column: the inner pair, or three times that plus the outer pair.
template <bool smooth, class X>
PF_HD X reduce(X before, X even, X odd, X after) {
  const X inner = even + odd;
  if constexpr (smooth) {
    return inner * 3 + (before + after);
  } else {
    return inner;
  }
}

template <class Format, bool smooth>
void down_row(const PyramidJob& job, int64_t plane, int64_t row, char* scratch) {
  using Stored = typename Format::Stored;
  using Pack = typename Format::Pack;
  using Wide = typename Format::Wide;
  constexpr int width = Format::width;
  const Stored* rows[4];
  for (int k = 0; k < 4; ++k) {
    const int64_t at = clamped(2 * row - 1 + k, job.height);
    rows[k] = reinterpret_cast<const Stored*>(job.in) + (plane * job.height + at) * job.width;
  }
  const auto scale = Wide(job.scale);
  Stored* out = reinterpret_cast<Stored*>(job.out) + (plane * job.low_height + row) * job.low_width;
  const int64_t pairs = job.width / 2, count = job.low_width;
  auto column = [&](int64_t at) __attribute__((always_inline)) {
    at = clamped(at, job.width);
    return reduce<smooth>(Format::load_one(rows[0] + at), Format::load_one(rows[1] + at),
                          Format::load_one(rows[2] + at), Format::load_one(rows[3] + at));
  };
  auto columns = [&](int64_t at) __attribute__((always_inline)) {
    if constexpr (smooth) {
      return reduce<true>(Format::load_pack(rows[0] + at), Format::load_pack(rows[1] + at),
                          Format::load_pack(rows[2] + at), Format::load_pack(rows[3] + at));
    } else {
      return Pack(Format::load_pack(rows[1] + at) + Format::load_pack(rows[2] + at));
    }
  };
  if constexpr (smooth) {
    // even[i] and odd[i]: sums of columns 2 i and 2 i + 1, from odd[-1] to even[count].
    Wide* even = reinterpret_cast<Wide*>(scratch);
    Wide* odd = reinterpret_cast<Wide*>(scratch + row_bytes(count)) + 1;
    const bool done = cover<width>(0, pairs, [&](int64_t i) __attribute__((always_inline)) {
      Pack evens, odds;
      split_pairs(Pack(columns(2 * i)), Pack(columns(2 * i + width)), evens, odds);
      store(even + i, evens);
      store(odd + i, odds);
    });
    odd[-1] = column(-1);
    for (int64_t i = done ? pairs : 0; i < count; ++i) {
      even[i] = column(2 * i);
      odd[i] = column(2 * i + 1);
    }
    even[count] = column(2 * count);
    const bool all = cover<width>(0, count, [&](int64_t i) __attribute__((always_inline)) {
      const Pack sum = reduce<true>(load<Pack>(odd + i - 1), load<Pack>(even + i), load<Pack>(odd + i),
                                    load<Pack>(even + i + 1));
      put<Format>(out + i, sum * scale);
    });
    for (int64_t i = all ? count : 0; i < count; ++i) {
      put_one<Format>(out + i, reduce<true>(odd[i - 1], even[i], odd[i], even[i + 1]) * scale);
    }
  } else {
    const bool done = cover<width>(0, pairs, [&](int64_t i) __attribute__((always_inline)) {
      Pack evens, odds;
      split_pairs(columns(2 * i), columns(2 * i + width), evens, odds);
      put<Format>(out + i, (evens + odds) * scale);
    });
    for (int64_t i = done ? pairs : 0; i < count; ++i) put_one<Format>(out + i, (column(2 * i) + column(2 * i + 1)) * scale);
  }
}

template <class Format, bool smooth, bool based, bool past_cache>
void up_row(const PyramidJob& job, int64_t plane, int64_t row, char* scratch) {
  using Stored = typename Format::Stored;
  using Pack = typename Format::Pack;
  using Wide = typename Format::Wide;
  constexpr int width = Format::width;
  const int64_t count = job.low_width, pairs = job.width / 2;
  const Stored* in = reinterpret_cast<const Stored*>(job.in) + plane * job.low_height * count;
  const Stored* near = in + row / 2 * count;
  const Stored* far = in + clamped(row / 2 + (row % 2 ? 1 : -1), job.low_height) * count;
  const int64_t start = (plane * job.height + row) * job.width;
  const Stored* base = reinterpret_cast<const Stored*>(job.base) + start;
  Stored* out = reinterpret_cast<Stored*>(job.out) + start;
  const auto scale = Wide(job.scale);
  // sums[-1] to sums[count]: three parts of the nearer row and one of the other.
  Wide* sums = reinterpret_cast<Wide*>(scratch) + 1;
  if constexpr (smooth) {
    const bool done = cover<width>(0, count, [&](int64_t i) __attribute__((always_inline)) {
      store(sums + i, Format::load_pack(near + i) * 3 + Format::load_pack(far + i));
    });
    for (int64_t i = done ? count : 0; i < count; ++i) {
      sums[i] = Format::load_one(near + i) * 3 + Format::load_one(far + i);
    }
    sums[-1] = sums[0];
    sums[count] = sums[count - 1];
  }
  const bool all = cover<width>(0, pairs, [&](int64_t i) __attribute__((always_inline)) {
    Pack even, odd, a, b;
    if constexpr (smooth) {
      const Pack here = load<Pack>(sums + i) * 3;
      even = here + load<Pack>(sums + i - 1);
      odd = here + load<Pack>(sums + i + 1);
    } else {
      even = odd = Format::load_pack(near + i);
    }
    join_pairs(Pack(even * scale), Pack(odd * scale), a, b);
    if constexpr (based) {
      a = Format::load_pack(base + 2 * i) + a;
      b = Format::load_pack(base + 2 * i + width) + b;
    }
    put<Format, past_cache>(out + 2 * i, a);
    put<Format, past_cache>(out + 2 * i + width, b);
  });
  for (int64_t n = all ? 2 * pairs : 0; n < job.width; ++n) {
    const int64_t i = n / 2;
    Wide x = smooth ? sums[i] * 3 + sums[n % 2 ? i + 1 : i - 1] : Format::load_one(near + i);
    x = x * scale;
    if (based) x = Format::load_one(base + n) + x;
    put_one<Format>(out + n, x);
  }
}

using Row = void (*)(const PyramidJob&, int64_t, int64_t, char*);

template <class Format, bool smooth>
Row choose_up(bool based, bool past_cache) {
  if (based) return past_cache ? &up_row<Format, smooth, true, true> : &up_row<Format, smooth, true, false>;
  return past_cache ? &up_row<Format, smooth, false, true> : &up_row<Format, smooth, false, false>;
}

template <class Format>
Row choose(const PyramidJob& job, bool down) {
  if (down) return job.smooth ? &down_row<Format, true> : &down_row<Format, false>;
  const bool based = job.base != nullptr;
  return job.smooth ? choose_up<Format, true>(based, job.past_cache) : choose_up<Format, false>(based, job.past_cache);
}

void run(const PyramidJob& job, bool down, int64_t first, int64_t last, char* scratch) {
  const Row one = job.dtype == Dtype::float32    ? choose<Float32>(job, down)
                  : job.dtype == Dtype::float64  ? choose<Float64>(job, down)
                  : job.dtype == Dtype::bfloat16 ? choose<Brain>(job, down)
                                                 : choose<Float16>(job, down);
  const int64_t rows = down ? job.low_height : job.height;
  for (int64_t unit = first; unit < last; ++unit) one(job, unit / rows, unit % rows, scratch);
  if (job.past_cache) stream_fence();
}

}  // namespace

void pyramid_down_rows(const PyramidJob& job, int64_t first, int64_t last, char* scratch) {
  run(job, true, first, last, scratch);
}

void pyramid_up_rows(const PyramidJob& job, int64_t first, int64_t last, char* scratch) {
  run(job, false, first, last, scratch);
}

}  // namespace pushforward::PF_ISA
