#include "isa.hpp"

#include <stdexcept>

namespace pushforward {
namespace {

struct Choice {
  const char* name;
  InstructionSet set;
};

std::vector<Choice> supported() {
  std::vector<Choice> found;
#if defined(PF_HAVE_X86)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  if (v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    found.push_back({"avx512", InstructionSet::avx512});
  }
  if (v3) found.push_back({"avx2", InstructionSet::avx2});
#endif
  found.push_back({"generic", InstructionSet::generic});
  return found;
}

Choice& chosen() {
  static Choice choice = supported().front();
  return choice;
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Choice& choice : supported()) names.emplace_back(choice.name);
  return names;
}

std::string instruction_set() { return chosen().name; }

void use_instruction_set(const std::string& name) {
  for (const Choice& choice : supported()) {
    if (name == choice.name) {
      chosen() = choice;
      return;
    }
  }
  throw std::invalid_argument("this processor has no " + name);
}

InstructionSet chosen_instruction_set() { return chosen().set; }

}  // namespace pushforward
