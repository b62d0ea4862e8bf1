// The device itself, or what stands for it.
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
#else

namespace pushforward::PF_ISA {

Traffic traffic = {0, 0};

void take_traffic(int64_t& read, int64_t& written) {
  read = traffic.read;
  written = traffic.written;
  traffic = {0, 0};
}

}  // namespace pushforward::PF_ISA
#endif
