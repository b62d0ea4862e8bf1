// What a tensor is, asked in one question: the table of C functions that DLPack 1.3 lets a library publish on its type of
// tensors, and torch does from 2.10 on. Asking for attributes one by one takes twenty times as long.
#pragma once

#include <pybind11/pybind11.h>

#include "../cpu/job.hpp"

namespace pushforward {

struct View {
  char* address;
  Dtype dtype;
  int dims;
  const int64_t* shape;  // the tensor's own: valid as long as nothing else runs
  int64_t size;

  bool matches(const View& other) const;
};

// False if this torch publishes no such table.
bool has_views();

// False if the object is not a plain contiguous tensor on the CPU of a dtype of ours, as `Like::take` decides it.
bool view_of(PyObject* object, View& view);

}  // namespace pushforward
