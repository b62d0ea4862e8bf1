// Instruction sets: which ones this processor has, which one is used, and how a kernel is declared that exists once for
// each of them.
#pragma once

#include <string>
#include <vector>

namespace pushforward {

enum class InstructionSet : int { generic, avx2, avx512 };

// Names of the instruction sets that this processor can run, best first; and which one is used.
std::vector<std::string> instruction_sets();
std::string instruction_set();
void use_instruction_set(const std::string& name);
InstructionSet chosen_instruction_set();

}  // namespace pushforward

// Every file of cpu/kernels is compiled once for each instruction set, into the namespace pushforward::PF_ISA. A header
// that the kernel and its binding share declares, within namespace pushforward,
//
//   PF_KERNEL(void, scale_rows, const ScaleJob& job, int64_t first, int64_t last)
//
// and the binding calls scale_rows_kernel()(job, first, last). The function is static, so that no copy of it that was
// compiled for a wider instruction set can be the one that the linker keeps.
#if defined(PF_HAVE_X86)
#define PF_KERNEL(result, name, ...)                                                      \
  namespace generic {                                                                     \
  result name(__VA_ARGS__);                                                               \
  }                                                                                       \
  namespace avx2 {                                                                        \
  result name(__VA_ARGS__);                                                               \
  }                                                                                       \
  namespace avx512 {                                                                      \
  result name(__VA_ARGS__);                                                               \
  }                                                                                       \
  [[maybe_unused]] static auto name##_kernel() -> result (*)(__VA_ARGS__) {               \
    switch (chosen_instruction_set()) {                                                   \
      case InstructionSet::avx512:                                                        \
        return &avx512::name;                                                             \
      case InstructionSet::avx2:                                                          \
        return &avx2::name;                                                               \
      default:                                                                            \
        return &generic::name;                                                            \
    }                                                                                     \
  }
#else
#define PF_KERNEL(result, name, ...)                                        \
  namespace generic {                                                       \
  result name(__VA_ARGS__);                                                 \
  }                                                                         \
  [[maybe_unused]] static auto name##_kernel() -> result (*)(__VA_ARGS__) { \
    return &generic::name;                                                  \
  }
#endif
