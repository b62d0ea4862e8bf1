// Inner products and sums of rows, in double, in their order. A block of every tensor is read from memory once and
// stays in the first-level cache for all the pairs.
#include "../gram.hpp"

#include "../formats.hpp"

namespace pushforward::PF_ISA {
namespace {

constexpr int width = lanes / 2;  // doubles in a vector
typedef float HalfFloats __attribute__((vector_size(vector_bytes / 2)));

PF_HD Doubles widen(const double* from) { return load<Doubles>(from); }
PF_HD Doubles widen(const float* from) { return __builtin_convertvector(load<HalfFloats>(from), Doubles); }

// Terms of one sum: a product of two rows, or one row.
template <class Wide>
struct Product {
  const Wide *x, *y;
  PF_HD Doubles vector(int i) const { return widen(x + i) * widen(y + i); }
  PF_HD double one(int i) const { return double(x[i]) * double(y[i]); }
};
template <class Wide>
struct Single {
  const Wide* x;
  PF_HD Doubles vector(int i) const { return widen(x + i); }
  PF_HD double one(int i) const { return double(x[i]); }
};

// A whole block: the upper four levels of the tree in registers, 16 vectors at a time.
template <class Terms>
PF_HD double whole_block(const Terms& terms) {
  constexpr int vectors = sum_block / width, groups = vectors / 16;
  Doubles group[groups];
  for (int g = 0; g < groups; ++g) {
    group[g] = halving_sum<16>([&](int i) { return terms.vector((g + i * groups) * width); });
  }
  double lane[width];
  store(lane, halving_sum<groups>([&](int g) { return group[g]; }));
  return halving_sum<width>([&](int i) { return lane[i]; });
}

template <class Format>
struct Grams {
  using Stored = typename Format::Stored;
  using Wide = typename Format::Wide;

  alignas(64) double terms[sum_block];
  double sums[sum_block];
  alignas(64) Wide widened[max_gram][sum_block + lanes];
  const Wide* rows[max_gram];

  // The stretch of each tensor that a unit works on, widened if it is stored in 16 bits.
  void read(const GramJob& job, int64_t first, int count) {
    for (int t = 0; t < job.tensors; ++t) {
      const Stored* from = reinterpret_cast<const Stored*>(job.tensor[t]) + first;
      if constexpr (sizeof(Stored) == sizeof(Wide)) {
        rows[t] = from;
      } else {
        int i = 0;
        for (; i + Format::width <= count; i += Format::width) store(widened[t] + i, Format::load_pack(from + i));
        for (; i < count; ++i) widened[t][i] = Format::load_one(from + i);
        rows[t] = widened[t];
      }
    }
  }

  template <class Visit>
  void quantities(const GramJob& job, const Visit& visit) {
    for (int i = 0; i < job.tensors; ++i) {
      for (int j = i; j < job.tensors; ++j) visit(i, j, Product<Wide>{rows[i], rows[j]});
    }
    for (int i = 0; i < job.tensors; ++i) visit(i, job.tensors, Single<Wide>{rows[i]});
  }

  template <class Terms>
  void write_terms(const Terms& from, int count) {
    int i = 0;
    for (; i + width <= count; i += width) store(terms + i, from.vector(i));
    for (; i < count; ++i) terms[i] = from.one(i);
  }

  void unit_of_rows(const GramJob& job, int64_t unit) {
    const int64_t first = unit * job.rows_in_unit(), size = job.row_size;
    int64_t count = job.rows - first;
    if (count > job.rows_in_unit()) count = job.rows_in_unit();
    read(job, first * size, int(count * size));
    quantities(job, [&](int i, int j, const auto& from) {
      write_terms(from, int(count * size));
      sum_rows(terms, sums, count, int(size));
      for (int64_t r = 0; r < count; ++r) job.put(first + r, i, j, sums[r]);
    });
  }

  void unit_of_block(const GramJob& job, int64_t unit) {
    const int64_t blocks = job.blocks(), row = unit / blocks, at = unit % blocks;
    const int count = job.block_size(at);
    read(job, row * job.row_size + at * sum_block, count);
    double* partial = job.partial + unit;
    quantities(job, [&](int i, int j, const auto& from) {
      double sum;
      if (count == sum_block) {
        sum = whole_block(from);
      } else {
        write_terms(from, count);
        sum = block_sum(terms, count);
      }
      if (blocks == 1) {
        job.put(row, i, j, sum);
      } else {
        *partial = sum;
        partial += job.units();
      }
    });
  }
};

template <class Format>
void run_format(const GramJob& job, int64_t first, int64_t last) {
  Grams<Format> grams;
  for (int64_t unit = first; unit < last; ++unit) {
    job.short_rows() ? grams.unit_of_rows(job, unit) : grams.unit_of_block(job, unit);
  }
}

}  // namespace

void gram_units(const GramJob& job, int64_t first, int64_t last) {
  switch (job.dtype) {
    case Dtype::float32:
      return run_format<Float32>(job, first, last);
    case Dtype::float64:
      return run_format<Float64>(job, first, last);
    case Dtype::bfloat16:
      return run_format<Brain>(job, first, last);
    default:
      return run_format<Float16>(job, first, last);
  }
}

}  // namespace pushforward::PF_ISA
