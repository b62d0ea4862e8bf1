// Runs a stretch of a job. Compiled once for each instruction set, into a namespace of its own; no standard templates
// here, whose copies the linker would share between the instruction sets.
#include "../random.hpp"
#include "../table.hpp"

namespace pushforward::PF_ISA {
namespace {

// Elements that wait in the first-level cache between two steps of the pipeline. Of 256 to 4096 this was the fastest at
// 2^24 elements (by up to a fifth with noise); prefetching a chunk's inputs while its normals are made brought nothing.
constexpr int64_t chunk = 512;

// Copy `count` numbers, from number `first` on, between memory with strides and a contiguous buffer.
template <class Stored, bool to_buffer>
void move(int dims, const int64_t* shape, const int64_t* strides, Stored* data, int64_t first, int64_t count,
          Stored* buffer) {
  int64_t index[max_dims];
  int64_t rest = first, offset = 0;
  const int last = dims - 1;
  for (int d = last; d >= 0; --d) {
    index[d] = rest % shape[d];
    rest /= shape[d];
    offset += index[d] * strides[d];
  }
  const int64_t stride = strides[last];
  while (count > 0) {
    int64_t here = shape[last] - index[last];
    if (here > count) here = count;
    if (stride == 1) {
      __builtin_memcpy(to_buffer ? buffer : data + offset, to_buffer ? data + offset : buffer,
                       size_t(here) * sizeof(Stored));
    } else {
      for (int64_t i = 0; i < here; ++i) {
        if (to_buffer) {
          buffer[i] = data[offset + i * stride];
        } else {
          data[offset + i * stride] = buffer[i];
        }
      }
    }
    buffer += here;
    count -= here;
    index[last] += here;
    offset += here * stride;
    for (int d = last; d > 0 && index[d] == shape[d]; --d) {
      offset += strides[d - 1] - index[d] * strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

template <class Stored, bool to_buffer>
void move(const Job& job, const Operand& operand, int64_t first, int64_t count, Stored* buffer) {
  move<Stored, to_buffer>(job.dims, job.shape, operand.strides, reinterpret_cast<Stored*>(operand.address), first,
                          count, buffer);
}

template <class Format>
void set_weights(const Job& job, int64_t row, Block<Format>& block) {
  using Wide = typename Format::Wide;
  const double* weights = job.weights + row * job.weights_step;
  const double* scales = job.scales + row * job.scales_step;
  for (int o = 0; o < job.outputs; ++o) {
    for (int k = 0; k < job.inputs; ++k) block.weight[o][k] = Wide(weights[o * job.inputs + k]);
    for (int d = 0; d < job.draws; ++d) block.weight[o][job.inputs + d] = Wide(scales[o * job.draws + d]);
  }
}

bool is_direct(const Job& job) {
  bool direct = job.draws == 0;
  for (int k = 0; k < job.inputs; ++k) direct = direct && job.in[k].contiguous;
  for (int o = 0; o < job.outputs; ++o) direct = direct && job.out[o].contiguous;
  return direct;
}

// Point at elements from number `first` on; everything must be contiguous.
template <class Format>
void point(const Job& job, int64_t first, Block<Format>& block) {
  using Stored = typename Format::Stored;
  for (int k = 0; k < job.inputs; ++k) block.in[k] = reinterpret_cast<const Stored*>(job.in[k].address) + first;
  for (int o = 0; o < job.outputs; ++o) block.out[o] = reinterpret_cast<Stored*>(job.out[o].address) + first;
}

// Where something is not contiguous, or to be generated, the work goes through buffers, a chunk at a time: gather
// inputs, make normals, call `body(first, count)` to combine, then scatter outputs.
template <class Format, class Body>
int run_chunks(const Job& job, int64_t first, int64_t last, Block<Format>& block, Body&& body) {
  using Stored = typename Format::Stored;
  alignas(64) Stored in_buffer[max_inputs][chunk];
  alignas(64) Stored out_buffer[max_outputs][chunk];
  alignas(64) float noise_buffer[max_draws][chunk];
  int status = 0;
  for (int64_t i = first; i < last;) {
    // Chunks end at multiples of the chunk: vectors of normals are then whole, and stores aligned, wherever possible.
    int64_t count = chunk - i % chunk;
    if (count > last - i) count = last - i;
    point(job, i, block);
    for (int k = 0; k < job.inputs; ++k) {
      if (job.in[k].contiguous) continue;
      move<Stored, true>(job, job.in[k], i, count, in_buffer[k]);
      block.in[k] = in_buffer[k];
    }
    for (int d = 0; d < job.draws; ++d) {
      fill_draws<Normals>(job.noise[d], job.row_size, i, count, noise_buffer[d]);
      block.noise[d] = noise_buffer[d];
    }
    for (int o = 0; o < job.outputs; ++o) {
      if (!job.out[o].contiguous) block.out[o] = out_buffer[o];
    }
    status |= body(i, count);
    for (int o = 0; o < job.outputs; ++o) {
      if (!job.out[o].contiguous) move<Stored, false>(job, job.out[o], i, count, out_buffer[o]);
    }
    i += count;
  }
  return status;
}

// Rows of the tables for `count` runs, from run `first` on.
void rows_of_runs(const Job& job, int64_t first, int64_t count, int64_t* rows) {
  const Groups& groups = job.groups;
  if (!groups.address || groups.dims == 0) {
    for (int64_t i = 0; i < count; ++i) rows[i] = groups.address ? *groups.address : first + i;
  } else {
    move<int64_t, true>(groups.dims, job.shape, groups.strides, const_cast<int64_t*>(groups.address), first, count,
                        rows);
  }
}

// Rows of the tables for the runs of at most a stretch of elements; returns how many elements of the first came before.
int64_t rows_of_stretch(const Job& job, int64_t first, int64_t count, int32_t* of_runs) {
  const int64_t run = first / job.groups.run, runs = (first + count - 1) / job.groups.run + 1 - run;
  int64_t wide[stretch];
  rows_of_runs(job, run, runs, wide);
  for (int64_t i = 0; i < runs; ++i) of_runs[i] = int32_t(wide[i]);
  return first % job.groups.run;
}

// Call body(row, first, count) for the runs within elements [first, last).
template <class Body>
void for_runs(const Job& job, int64_t first, int64_t last, Body&& body) {
  constexpr int64_t many = 256;
  const int64_t size = job.groups.run;
  int64_t rows[many], run = first / size, known = 0, at = many;
  for (; first < last; ++run, ++at) {
    if (at >= known) {
      known = (last - 1) / size + 1 - run;
      if (known > many) known = many;
      rows_of_runs(job, run, known, rows);
      at = 0;
    }
    const int64_t end = (run + 1) * size < last ? (run + 1) * size : last;
    body(rows[at], first, end - first);
    first = end;
  }
}

// Coefficients come from tables. Long runs take a call of the loop for equal coefficients each; that costs some
// fifteen nanoseconds, as much as giving so many elements coefficients of their own.
constexpr int64_t long_run = 32;

template <class Format>
int run_table(const Job& job, int64_t first, int64_t last, Block<Format>& block, Mix<Format> mix) {
  int status = 0;
  if (job.groups.run >= long_run && is_direct(job)) {
    for_runs(job, first, last, [&](int64_t row, int64_t at, int64_t count) {
      set_weights(job, row, block);
      point(job, at, block);
      status |= mix(block, count);
    });
    return status;
  }
  if (job.groups.run >= long_run) {
    return run_chunks(job, first, last, block, [&](int64_t from, int64_t length) {
      int some = 0;
      for_runs(job, from, from + length, [&](int64_t row, int64_t, int64_t count) {
        set_weights(job, row, block);
        some |= mix(block, count);
        block.advance(count);
      });
      return some;
    });
  }
  const Table<Format> table(job);
  const MixTable<Format> mix_each = choose_mix_table(table);
  Expanded<Format> expanded;
  return run_chunks(job, first, last, block, [&](int64_t from, int64_t length) {
    int some = 0;
    for (int64_t end = from + length; from < end; from += stretch) {
      const int64_t count = end - from < stretch ? end - from : stretch;
      int32_t of_runs[stretch];
      const int64_t skip = rows_of_stretch(job, from, count, of_runs);
      if (!table.permuted) expand(table, of_runs, job.groups.run, skip, count, expanded);
      some |= mix_each(block, table, of_runs, expanded, count);
      block.advance(count);
    }
    return some;
  });
}

template <class Format>
int run_format(const Job& job, int64_t first, int64_t last) {
  Block<Format> block;
  block.inputs = job.inputs;
  block.outputs = job.outputs;
  block.draws = job.draws;
  Mix<Format> past_cache = nullptr;
  if (job.past_cache && (!job.table() || job.groups.run > chunk)) past_cache = choose_mix_past_cache<Format>(job.inputs, job.outputs, job.draws);
  const Mix<Format> mix = past_cache ? past_cache : choose_mix<Format>(job.inputs, job.outputs, job.draws);
  int status;
  if (job.table()) {
    status = run_table(job, first, last, block, mix);
  } else {
    set_weights(job, 0, block);
    if (is_direct(job)) {
      point(job, first, block);
      status = mix(block, last - first);
    } else {
      status = run_chunks(job, first, last, block, [&](int64_t, int64_t count) { return mix(block, count); });
    }
  }
  if (past_cache) stream_fence();
  return status;
}

}  // namespace

int combine_stretch(const Job& job, int64_t first, int64_t last) {
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
