#include "exchange.hpp"

#include <algorithm>

#include "tensors.hpp"

namespace pushforward {
namespace {

// The parts of DLPack's stable interface that are read here, as its specification lays them out.
namespace dlpack {

constexpr uint32_t major_version = 1;
constexpr int32_t on_cpu = 1;
constexpr uint8_t is_float = 2, is_bfloat = 4;

struct Tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t dims;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;  // in elements; may be null if they are those of a contiguous tensor
  uint64_t byte_offset;
};

struct Table {
  uint32_t major, minor;
  const Table* older;
  void* allocate;
  void* to_managed;
  void* from_managed;
  int (*describe)(void* tensor, Tensor* description);  // may be null; -1, with a Python error, where it cannot
  void* work_stream;
};

}  // namespace dlpack

using Describe = decltype(dlpack::Table::describe);

Describe find() {
  const py::object capsule = py::reinterpret_steal<py::object>(
      PyObject_GetAttrString(torch().tensor, "__dlpack_c_exchange_api__"));
  const void* const table = capsule ? PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api") : nullptr;
  if (!table) PyErr_Clear();
  const auto* found = static_cast<const dlpack::Table*>(table);
  while (found && found->major > dlpack::major_version) found = found->older;
  return found && found->major == dlpack::major_version ? found->describe : nullptr;
}

// Looked for once; torch keeps it as long as the process lives.
Describe describe() {
  static const Describe found = find();
  return found;
}

bool dtype_of(const dlpack::Tensor& tensor, Dtype& dtype) {
  if (tensor.lanes != 1) return false;
  if (tensor.code == dlpack::is_bfloat) {
    dtype = Dtype::bfloat16;
    return tensor.bits == 16;
  }
  dtype = tensor.bits == 32 ? Dtype::float32 : tensor.bits == 64 ? Dtype::float64 : Dtype::float16;
  return tensor.code == dlpack::is_float && (tensor.bits == 32 || tensor.bits == 64 || tensor.bits == 16);
}

bool contiguous(const dlpack::Tensor& tensor, int64_t size) {
  if (!tensor.strides || size == 0) return true;
  int64_t expected = 1;
  for (int d = tensor.dims - 1; d >= 0; --d) {
    if (tensor.shape[d] == 1) continue;
    if (tensor.strides[d] != expected) return false;
    expected *= tensor.shape[d];
  }
  return true;
}

}  // namespace

bool View::matches(const View& other) const {
  return dtype == other.dtype && dims == other.dims && std::equal(shape, shape + dims, other.shape);
}

bool has_views() { return describe() != nullptr; }

bool view_of(PyObject* object, View& view) {
  if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != torch().tensor) return false;
  dlpack::Tensor tensor;
  if (describe()(object, &tensor) != 0) {  // no such layout, or refused within torch.func transforms
    PyErr_Clear();
    return false;
  }
  if (tensor.device_type != dlpack::on_cpu || !dtype_of(tensor, view.dtype)) return false;
  view.address = static_cast<char*>(tensor.data) + tensor.byte_offset;
  view.dims = tensor.dims;
  view.shape = tensor.shape;
  view.size = 1;
  for (int d = 0; d < tensor.dims; ++d) view.size *= tensor.shape[d];
  if (!tensor.data && view.size > 0) return false;  // within torch.func.functionalize: no memory of its own
  return contiguous(tensor, view.size);
}

}  // namespace pushforward
