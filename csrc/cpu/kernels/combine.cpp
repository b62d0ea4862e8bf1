// Runs a stretch of a job. Compiled once for each instruction set, into a namespace of its own; no standard templates
// here, whose copies the linker would share between the instruction sets.
#include "../mix.hpp"
#include "../normals.hpp"

namespace pushforward::PF_ISA {
namespace {

// Elements that wait in the first-level cache between two steps of the pipeline. Of 256 to 4096 this was the fastest at
// 2^24 elements (by up to a fifth with noise); prefetching a chunk's inputs while its normals are made brought nothing.
constexpr int64_t chunk = 512;

// Copy `count` elements, from number `first` on, between an operand with strides and a contiguous buffer.
template <class Stored, bool to_buffer>
void move(const Job& job, const Operand& operand, int64_t first, int64_t count, Stored* buffer) {
  int64_t index[max_dims];
  int64_t rest = first, offset = 0;
  const int last = job.dims - 1;
  for (int d = last; d >= 0; --d) {
    index[d] = rest % job.shape[d];
    rest /= job.shape[d];
    offset += index[d] * operand.strides[d];
  }
  Stored* data = reinterpret_cast<Stored*>(operand.address);
  const int64_t stride = operand.strides[last];
  while (count > 0) {
    int64_t here = job.shape[last] - index[last];
    if (here > count) here = count;
    for (int64_t i = 0; i < here; ++i) {
      if (to_buffer) {
        buffer[i] = data[offset + i * stride];
      } else {
        data[offset + i * stride] = buffer[i];
      }
    }
    buffer += here;
    count -= here;
    index[last] += here;
    offset += here * stride;
    for (int d = last; d > 0 && index[d] == job.shape[d]; --d) {
      offset += operand.strides[d - 1] - index[d] * operand.strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
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

// Everything contiguous and nothing to generate: one call of the inner loop. Else the work goes through buffers, a
// chunk at a time: gather inputs, make normals, combine, then scatter outputs.
template <class Format>
int run_rows(const Job& job, int64_t first, int64_t last, Block<Format>& block, Mix<Format> mix) {
  using Stored = typename Format::Stored;
  bool direct = job.draws == 0;
  for (int k = 0; k < job.inputs; ++k) direct = direct && job.in[k].contiguous;
  for (int o = 0; o < job.outputs; ++o) direct = direct && job.out[o].contiguous;
  if (direct) {
    for (int k = 0; k < job.inputs; ++k) block.in[k] = reinterpret_cast<const Stored*>(job.in[k].address) + first;
    for (int o = 0; o < job.outputs; ++o) block.out[o] = reinterpret_cast<Stored*>(job.out[o].address) + first;
    return mix(block, last - first);
  }
  alignas(64) Stored in_buffer[max_inputs][chunk];
  alignas(64) Stored out_buffer[max_outputs][chunk];
  alignas(64) float noise_buffer[max_draws][chunk];
  int status = 0;
  for (int64_t i = first; i < last;) {
    // Chunks end at multiples of the chunk: vectors of normals are then whole, and stores aligned, wherever possible.
    int64_t count = chunk - i % chunk;
    if (count > last - i) count = last - i;
    for (int k = 0; k < job.inputs; ++k) {
      if (job.in[k].contiguous) {
        block.in[k] = reinterpret_cast<const Stored*>(job.in[k].address) + i;
      } else {
        move<Stored, true>(job, job.in[k], i, count, in_buffer[k]);
        block.in[k] = in_buffer[k];
      }
    }
    for (int d = 0; d < job.draws; ++d) {
      fill_normals(job.noise[d], job.row_size, i, count, noise_buffer[d]);
      block.noise[d] = noise_buffer[d];
    }
    for (int o = 0; o < job.outputs; ++o) {
      block.out[o] = job.out[o].contiguous ? reinterpret_cast<Stored*>(job.out[o].address) + i : out_buffer[o];
    }
    status |= mix(block, count);
    for (int o = 0; o < job.outputs; ++o) {
      if (!job.out[o].contiguous) move<Stored, false>(job, job.out[o], i, count, out_buffer[o]);
    }
    i += count;
  }
  return status;
}

template <class Format>
int run_format(const Job& job, int64_t first, int64_t last) {
  Block<Format> block;
  block.inputs = job.inputs;
  block.outputs = job.outputs;
  block.draws = job.draws;
  Mix<Format> past_cache = nullptr;
  if (job.past_cache) past_cache = choose_mix_past_cache<Format>(job.inputs, job.outputs, job.draws);
  const Mix<Format> mix = past_cache ? past_cache : choose_mix<Format>(job.inputs, job.outputs, job.draws);
  int status = 0;
  if (job.weights_step == 0 && job.scales_step == 0) {
    set_weights(job, 0, block);
    status = run_rows(job, first, last, block, mix);
    first = last;
  }
  while (first < last) {  // coefficients change with the row
    const int64_t row = first / job.row_size;
    const int64_t end = (row + 1) * job.row_size < last ? (row + 1) * job.row_size : last;
    set_weights(job, row, block);
    status |= run_rows(job, first, end, block, mix);
    first = end;
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
