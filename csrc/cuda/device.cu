// The device itself.
#include "launch.hpp"

#if defined(__CUDACC__)
#include <stdexcept>
#include <string>

namespace pushforward::PF_ISA {

void check_launch(const char* what) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error) + " in " + what);
}

}  // namespace pushforward::PF_ISA
#endif
