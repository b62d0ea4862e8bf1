#include "rows.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "parallel.hpp"

namespace pushforward {
namespace {

constexpr int64_t piece = 1 << 15;        // bytes of a row that are moved by one thread at a time
constexpr int64_t thread_bytes = 1 << 18;  // below, another thread costs more than it brings

int useful_threads(int64_t bytes, int threads) { return int(std::min<int64_t>(threads, 1 + bytes / thread_bytes)); }

// A call of memcpy costs more than a short row: sizes known when compiling become one or two moves.
void copy(char* to, const char* from, size_t bytes) {
  switch (bytes) {
    case 4:
      memcpy(to, from, 4);
      return;
    case 8:
      memcpy(to, from, 8);
      return;
    case 16:
      memcpy(to, from, 16);
      return;
    default:
      memcpy(to, from, bytes);
  }
}

constexpr int64_t saved = -1;  // a source or target: the row that a cycle began with
constexpr int64_t done = -1;   // instead of a number of readers

struct Move {
  int64_t to, from;
};

// The moves in an order in which no row is overwritten that is still to be read. In the graph of slots, each pointing
// to its source, a slot that nobody reads can be written at once, which may free its source. What then remains are
// cycles: their first row is saved, and the last slot of the cycle gets it. Slots that are their own source stay.
void plan(const int64_t* index, int64_t count, std::vector<Move>& moves, std::vector<int64_t>& readers) {
  moves.clear();
  readers.assign(size_t(count), 0);
  for (int64_t j = 0; j < count; ++j) {
    if (index[j] != j) ++readers[index[j]];
  }
  for (int64_t start = 0; start < count; ++start) {
    for (int64_t j = start; readers[j] == 0 && index[j] != j;) {
      const int64_t from = index[j];
      moves.push_back({j, from});
      readers[j] = done;
      if (--readers[from] > 0 || from > start) break;  // a later slot gets its turn in the outer loop
      j = from;
    }
  }
  for (int64_t start = 0; start < count; ++start) {
    if (readers[start] <= 0 || index[start] == start) continue;
    moves.push_back({saved, start});
    int64_t j = start;
    for (; index[j] != start; j = index[j]) {
      moves.push_back({j, index[j]});
      readers[j] = done;
    }
    moves.push_back({j, saved});
    readers[j] = done;
  }
}

void run(const std::vector<Move>& moves, char* rows, size_t row_bytes, size_t begin, size_t bytes,
         std::vector<char>& scratch) {
  scratch.resize(bytes);
  const auto at = [&](int64_t j) { return j == saved ? scratch.data() : rows + size_t(j) * row_bytes + begin; };
  for (const Move& move : moves) copy(at(move.to), at(move.from), bytes);
}

}  // namespace

void move_rows(const RowsJob& job, int threads) {
  const int64_t pieces = std::max<int64_t>(1, (int64_t(job.row_bytes) + piece - 1) / piece);
  const int64_t rows = job.batch * job.out_rows;
  if (job.row_bytes == 0) return;
  if (job.batch == 1 && pieces == 1) {  // particles: without a division for each of many short rows
    parallel_for(rows, useful_threads(rows * int64_t(job.row_bytes), threads), [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t from = job.index[row];
        if (from < 0 && !job.base) continue;
        const char* source = from >= 0 ? job.source + size_t(from) * job.row_bytes : job.base + row * job.row_bytes;
        copy(job.out + size_t(row) * job.row_bytes, source, job.row_bytes);
      }
    });
    return;
  }
  parallel_for(rows * pieces, useful_threads(rows * int64_t(job.row_bytes), threads), [&](int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t row = unit / pieces;
      const size_t begin = size_t(unit % pieces * piece), bytes = std::min(job.row_bytes - begin, size_t(piece));
      const char* from;
      if (job.index[row] >= 0) {
        from = job.source + size_t(row / job.out_rows * job.source_rows + job.index[row]) * job.row_bytes;
      } else if (job.base) {
        from = job.base + size_t(row) * job.row_bytes;
      } else {
        continue;
      }
      copy(job.out + size_t(row) * job.row_bytes + begin, from + begin, bytes);
    }
  });
}

void permute_rows(char* rows, const int64_t* index, int64_t batch, int64_t count, size_t row_bytes, int threads) {
  if (batch == 0 || count == 0 || row_bytes == 0) return;
  threads = useful_threads(batch * count * int64_t(row_bytes), threads);
  const size_t step = size_t(count) * row_bytes;
  if (batch >= threads) {
    parallel_for(batch, threads, [&](int64_t first, int64_t last) {
      std::vector<Move> moves;
      std::vector<int64_t> readers;
      std::vector<char> scratch;
      for (int64_t b = first; b < last; ++b) {
        plan(index + b * count, count, moves, readers);
        run(moves, rows + size_t(b) * step, row_bytes, 0, row_bytes, scratch);
      }
    });
    return;
  }
  // Threads share a population by columns: each runs all the moves on its own part of every row.
  const int64_t lines = (int64_t(row_bytes) + 63) / 64;
  std::vector<Move> moves;
  std::vector<int64_t> readers;
  for (int64_t b = 0; b < batch; ++b) {
    plan(index + b * count, count, moves, readers);
    parallel_for(lines, threads, [&](int64_t first, int64_t last) {
      std::vector<char> scratch;
      const size_t begin = size_t(first) * 64, end = std::min(size_t(last) * 64, row_bytes);
      run(moves, rows + size_t(b) * step, row_bytes, begin, end - begin, scratch);
    });
  }
}

bool any_outside(const int64_t* index, int64_t count, int64_t rows, int threads) {
  std::atomic<bool> found{false};
  parallel_for(count, useful_threads(count * int64_t(sizeof(int64_t)), threads), [&](int64_t first, int64_t last) {
    int64_t wrong = 0;  // negative if one is: i < 0, or rows - 1 - i < 0
    for (int64_t i = first; i < last; ++i) wrong |= index[i] | (rows - 1 - index[i]);
    if (wrong < 0) found = true;
  });
  return found;
}

int64_t keep_in_place(const int64_t* ancestors, int64_t* out, int64_t batch, int64_t count, int threads) {
  threads = useful_threads(batch * count * int64_t(sizeof(int64_t)), threads);
  std::atomic<int64_t> wrong{0};
  parallel_for(batch, threads, [&](int64_t first, int64_t last) {
    std::vector<int32_t> children;  // a population has at most 2^31 particles
    for (int64_t b = first; b < last; ++b) {
      const int64_t* from = ancestors + b * count;
      int64_t* to = out + b * count;
      children.assign(size_t(count), 0);
      int64_t j = 0;
      for (; j < count && uint64_t(from[j]) < uint64_t(count); ++j) ++children[size_t(from[j])];
      if (j < count) {
        wrong = from[j];
        return;
      }
      // As many places are free as there are children too many, so that the parent never runs past the end.
      for (int64_t place = 0, parent = 0; place < count; ++place) {
        if (children[place] > 0) {
          to[place] = place;
          continue;
        }
        while (children[parent] < 2) ++parent;
        to[place] = parent;
        --children[parent];
      }
    }
  });
  return wrong;
}

}  // namespace pushforward
