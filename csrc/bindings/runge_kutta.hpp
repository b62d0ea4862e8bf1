// The tableau of a Runge-Kutta step as Python hands it over.
#pragma once

#include <pybind11/pybind11.h>

#include "../core/runge_kutta.hpp"

namespace pushforward {

// `rows`: weights of the new state, of the estimates and of dense output, one tuple each.
StepRows step_rows(const pybind11::tuple& rows, size_t stages, int estimates, size_t dense, double rtol, double atol);

struct StepJob;

// Run a step whose tensors and tableau are filled in, on torch's threads; holds on to the interpreter if it is small.
void run_steps(StepJob& job);

}  // namespace pushforward
