// Dynamic thresholding: who counts, collects and writes which elements.
#include "../cpu/threshold.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "../cpu/parallel.hpp"
#include "module.hpp"
#include "tensors.hpp"

namespace pushforward {
namespace {

constexpr int64_t stretch = 1 << 17;        // elements that one histogram of a divided sample counts
constexpr int64_t worth_a_thread = 1 << 14;  // elements

// Where the order statistic number `rank` lies: in which bin, how many elements lie in bins below.
struct Place {
  int bin = 0;
  int64_t rank, count;

  Place(const std::vector<int64_t>& histogram, int64_t rank) : rank(rank) {
    while (this->rank >= histogram[bin]) this->rank -= histogram[bin++];
    count = histogram[bin];
  }
};

struct Samples {
  ThresholdJob job;
  int64_t size, rank;

  int64_t parts() const { return (size + stretch - 1) / stretch; }
  int64_t begin_of(int64_t sample, int64_t part) const { return sample * size + part * stretch; }
  int64_t end_of(int64_t sample, int64_t part) const {
    return sample * size + (part + 1 == parts() ? size : (part + 1) * stretch);
  }
};

// A sample by one thread.
double limit_of(const Samples& all, int64_t sample, std::unique_ptr<char[]>& keys, int64_t& room) {
  const ThresholdJob& job = all.job;
  std::vector<int64_t> histogram(threshold_bins);
  std::vector<uint32_t> counts(threshold_bins);
  for (int64_t part = 0; part < all.parts(); ++part) {
    std::memset(counts.data(), 0, counts.size() * sizeof(uint32_t));
    if (threshold_count_kernel()(job, all.begin_of(sample, part), all.end_of(sample, part), counts.data())) {
      return std::nan("");
    }
    for (int bin = 0; bin < threshold_bins; ++bin) histogram[bin] += counts[bin];
  }
  const Place place(histogram, all.rank);
  if (room < place.count) {
    room = place.count;
    keys.reset(new char[(room + threshold_slack) * element_size(job.dtype)]);
  }
  uint64_t next = std::numeric_limits<uint64_t>::max();
  threshold_collect_kernel()(job, sample * all.size, (sample + 1) * all.size, place.bin, keys.get(), &next);
  return threshold_select_kernel()(job, keys.get(), place.count, place.rank, next);
}

// A sample by all threads.
double limit_by_parts(const Samples& all, int64_t sample, int threads) {
  const ThresholdJob& job = all.job;
  const int64_t parts = all.parts();
  std::vector<uint32_t> counts(parts * threshold_bins);
  std::vector<char> nan(parts);
  parallel_for(parts, threads, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      nan[part] = threshold_count_kernel()(job, all.begin_of(sample, part), all.end_of(sample, part),
                                           counts.data() + part * threshold_bins);
    }
  });
  std::vector<int64_t> histogram(threshold_bins);
  for (int64_t part = 0; part < parts; ++part) {
    if (nan[part]) return std::nan("");
    for (int bin = 0; bin < threshold_bins; ++bin) histogram[bin] += counts[part * threshold_bins + bin];
  }
  const Place place(histogram, all.rank);
  const int64_t bytes = element_size(job.dtype);
  std::unique_ptr<char[]> keys(new char[(place.count + parts * threshold_slack) * bytes]);
  std::vector<int64_t> offset(parts + 1);  // with room for the slack of each part
  for (int64_t part = 0; part < parts; ++part) {
    offset[part + 1] = offset[part] + counts[part * threshold_bins + place.bin] + threshold_slack;
  }
  std::vector<uint64_t> next(parts, std::numeric_limits<uint64_t>::max());
  parallel_for(parts, threads, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      threshold_collect_kernel()(job, all.begin_of(sample, part), all.end_of(sample, part), place.bin,
                                 keys.get() + offset[part] * bytes, &next[part]);
    }
  });
  for (int64_t part = 1; part < parts; ++part) {
    const int64_t count = offset[part + 1] - offset[part] - threshold_slack;
    std::memmove(keys.get() + (offset[part] - part * threshold_slack) * bytes, keys.get() + offset[part] * bytes,
                 count * bytes);
    if (next[part] < next[0]) next[0] = next[part];
  }
  return threshold_select_kernel()(job, keys.get(), place.count, place.rank, next[0]);
}

void threshold(int dtype, uintptr_t x, uintptr_t out, int64_t samples, int64_t size, int64_t rank, double fraction,
               double floor, double cap, uintptr_t limits) {
  const Samples all{{Dtype(dtype), reinterpret_cast<const char*>(x), reinterpret_cast<char*>(out), fraction, floor, cap},
                    size,
                    rank};
  int threads = torch_threads();
  py::gil_scoped_release release;
  const bool is_double = all.job.dtype == Dtype::float64;
  const auto keep = [&](int64_t sample, double limit) {
    is_double ? void(reinterpret_cast<double*>(limits)[sample] = limit)
              : void(reinterpret_cast<float*>(limits)[sample] = float(limit));
  };
  if (samples * size < threads * worth_a_thread) threads = int(samples * size / worth_a_thread) + 1;
  if (threads == 1 || samples >= 2 * threads || size <= stretch) {
    parallel_for(samples, threads, [&](int64_t first, int64_t last) {
      std::unique_ptr<char[]> keys;
      int64_t room = 0;
      for (int64_t sample = first; sample < last; ++sample) {
        const double limit = limit_of(all, sample, keys, room);
        keep(sample, limit);
        threshold_write_kernel()(all.job, sample * size, (sample + 1) * size, limit);
      }
    });
    return;
  }
  for (int64_t sample = 0; sample < samples; ++sample) {
    const double limit = limit_by_parts(all, sample, threads);
    keep(sample, limit);
    parallel_for(all.parts(), threads, [&](int64_t first, int64_t last) {
      threshold_write_kernel()(all.job, all.begin_of(sample, first), all.end_of(sample, last - 1), limit);
    });
  }
}

}  // namespace

PF_BINDINGS(module) { module.def("threshold", &threshold); }

}  // namespace pushforward
