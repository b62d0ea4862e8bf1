// Runs a job on several threads, with the best instruction set this processor has.
#pragma once

#include <string>
#include <vector>

#include "job.hpp"

namespace pushforward {

// Compute a whole job on up to `threads` threads; returns 1 if an output is NaN or infinite, else 0.
int run_parallel(const Job& job, int threads);

// Threads that are worth waking for a job, given that `threads` may be used.
int useful_threads(const Job& job, int threads);

// Names of the instruction sets that this processor can run, best first; and which one is used.
std::vector<std::string> instruction_sets();
std::string instruction_set();
void use_instruction_set(const std::string& name);

// Where the threads come from: "OpenMP" (the pool torch already has) or "std::thread".
std::string thread_source();

}  // namespace pushforward
