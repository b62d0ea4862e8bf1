// Rows of bytes moved by index.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pushforward {

struct RowsJob {
  char* out;           // [batch, out_rows] rows
  const char* source;  // [batch, source_rows] rows
  const char* base;    // like `out`, or null
  const int64_t* index;  // [batch, out_rows]
  int64_t batch, out_rows, source_rows;
  size_t row_bytes;
};

// out[b, j] = source[b, index[b, j]]; where that is negative, base[b, j], or unchanged if there is no base.
void move_rows(const RowsJob& job, int threads);

// rows[b, j] = old rows[b, index[b, j]], within the same memory, for any index in [0, count).
void permute_rows(char* rows, const int64_t* index, int64_t batch, int64_t count, size_t row_bytes, int threads);

// Whether any of the numbers is outside [0, rows).
bool any_outside(const int64_t* index, int64_t count, int64_t rows, int threads);

// A rearrangement of each row of `ancestors` in which every i that occurs is at place i; the rest, in increasing order,
// fills the free places in increasing order. Returns an ancestor outside [0, count) if there is one (then `out` is
// unspecified), else 0.
int64_t keep_in_place(const int64_t* ancestors, int64_t* out, int64_t batch, int64_t count, int threads);

}  // namespace pushforward
