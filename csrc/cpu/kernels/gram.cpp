// Inner products and sums of rows, in double, in their order.
#include "../gram.hpp"

#include "../formats.hpp"

namespace pushforward::PF_ISA {
namespace {

constexpr int width = lanes / 2;  // doubles in a vector
typedef float HalfFloats __attribute__((vector_size(vector_bytes / 2)));

PF_HD void store_doubles(double* to, Doubles x) { store(to, x); }
PF_HD void store_doubles(double* to, Floats x) {
  HalfFloats half[2];
  __builtin_memcpy(half, &x, sizeof(x));
  for (int i = 0; i < 2; ++i) store(to + i * width, __builtin_convertvector(half[i], Doubles));
}

// Terms of one sum: a product of two rows, or one row.
struct Product {
  const double *x, *y;
  PF_HD Doubles operator()(int i) const { return load<Doubles>(x + i) * load<Doubles>(y + i); }
};
struct Single {
  const double* x;
  PF_HD Doubles operator()(int i) const { return load<Doubles>(x + i); }
};

// A whole block: the first four levels of the tree in registers, 16 vectors at a time.
template <class Terms>
PF_HD double whole_block(const Terms& terms) {
  constexpr int vectors = sum_block / width, groups = vectors / 16;
  Doubles group[groups];
  for (int g = 0; g < groups; ++g) {
    group[g] = halving_sum<16>([&](int i) { return terms((g + i * groups) * width); });
  }
  double lane[width];
  store(lane, halving_sum<groups>([&](int g) { return group[g]; }));
  return halving_sum<width>([&](int i) { return lane[i]; });
}

struct Grams {
  // The tree walks through a block in large strides, which no prefetcher follows: so a block of every tensor is first
  // read in order and widened, once for all pairs. For R = 4 that was more than twice as fast.
  alignas(64) double rows[max_gram][sum_block + lanes];
  alignas(64) double terms[sum_block + lanes];
  double sums[sum_block];

  template <class Format>
  void read(const GramJob& job, int64_t first, int count) {
    using Stored = typename Format::Stored;
    for (int t = 0; t < job.tensors; ++t) {
      const Stored* from = reinterpret_cast<const Stored*>(job.tensor[t]) + first;
      int i = 0;
      for (; i + Format::width <= count; i += Format::width) store_doubles(rows[t] + i, Format::load_pack(from + i));
      for (; i < count; ++i) rows[t][i] = Format::load_one(from + i);
    }
  }
  void read(const GramJob& job, int64_t first, int count) {
    switch (job.dtype) {
      case Dtype::float32:
        return read<Float32>(job, first, count);
      case Dtype::float64:
        return read<Float64>(job, first, count);
      case Dtype::bfloat16:
        return read<Brain>(job, first, count);
      default:
        return read<Float16>(job, first, count);
    }
  }

  template <class Visit>
  PF_HD void quantities(const GramJob& job, const Visit& visit) {
    for (int i = 0; i < job.tensors; ++i) {
      for (int j = i; j < job.tensors; ++j) visit(i, j, Product{rows[i], rows[j]});
    }
    for (int i = 0; i < job.tensors; ++i) visit(i, job.tensors, Single{rows[i]});
  }

  // The last vector may be partly of older numbers, which nothing reads.
  template <class Terms>
  PF_HD void write_terms(const Terms& from, int count) {
    for (int i = 0; i < count; i += width) store(terms + i, from(i));
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

}  // namespace

void gram_units(const GramJob& job, int64_t first, int64_t last) {
  Grams grams = {};
  for (int64_t unit = first; unit < last; ++unit) {
    job.short_rows() ? grams.unit_of_rows(job, unit) : grams.unit_of_block(job, unit);
  }
}

}  // namespace pushforward::PF_ISA
