// Fills a stretch of a tensor with random numbers.
#include "../mix.hpp"
#include "../random.hpp"
#include "../random_job.hpp"

namespace pushforward::PF_ISA {
namespace {

// Numbers of the tensor's own type are made in place.
template <class Of>
void fill(const RandomJob& job, int64_t first, int64_t last) {
  fill_draws<Of>(job.key, job.row_size, first, last - first, reinterpret_cast<typename Of::Number*>(job.out) + first);
}

// Others, and those that are to go past the caches, through a buffer.
template <class Format, class Of, bool past_cache>
void convert(const RandomJob& job, int64_t first, int64_t last) {
  constexpr int64_t chunk = 512;
  alignas(64) float buffer[chunk];
  Block<Format> block;
  block.noise[0] = buffer;
  block.weight[0][0] = 1;
  for (int64_t i = first; i < last;) {
    int64_t count = chunk - i % chunk;  // so that vectors of numbers are whole
    if (count > last - i) count = last - i;
    fill_draws<Of>(job.key, job.row_size, i, count, buffer);
    block.out[0] = reinterpret_cast<typename Format::Stored*>(job.out) + i;
    mix_fixed<Format, 0, 1, 1, past_cache>(block, count);
    i += count;
  }
  if (past_cache) stream_fence();
}

template <class Format>
void normals(const RandomJob& job, int64_t first, int64_t last) {
  job.past_cache ? convert<Format, Normals, true>(job, first, last) : convert<Format, Normals, false>(job, first, last);
}

}  // namespace

void random_stretch(const RandomJob& job, int64_t first, int64_t last) {
  if (job.distribution == Distribution::uniform) {
    if (job.dtype == Dtype::float64) return fill<DoubleUniforms>(job, first, last);
    return job.past_cache ? convert<Float32, Uniforms, true>(job, first, last) : fill<Uniforms>(job, first, last);
  }
  switch (job.dtype) {
    case Dtype::float32:
      return job.past_cache ? convert<Float32, Normals, true>(job, first, last) : fill<Normals>(job, first, last);
    case Dtype::float64:
      return normals<Float64>(job, first, last);
    case Dtype::bfloat16:
      return normals<Brain>(job, first, last);
    default:
      return normals<Float16>(job, first, last);
  }
}

}  // namespace pushforward::PF_ISA
