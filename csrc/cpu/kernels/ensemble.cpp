// Ensembles: the block for the right-hand side and the number of stages.
#include "../ensemble.hpp"

#include "../ensemble_block.hpp"

namespace pushforward::PF_ISA {
namespace {

template <class Field>
void run(const EnsembleJob& job, double* scratch) {
  if (job.pair.stages == 4) {
    Block<Field, 4>(job, scratch).run();
  } else {
    Block<Field, 7>(job, scratch).run();
  }
}

}  // namespace

void run_ensemble(const EnsembleJob& given, double* scratch) {
  EnsembleJob job = given;
  switch (job.field) {
    case EnsembleField::van_der_pol:
      return run<VanDerPol>(job, scratch);
    case EnsembleField::lorenz:
      return run<Lorenz>(job, scratch);
    case EnsembleField::linear:
      job.function = job.shared ? &linear_rate<true> : &linear_rate<false>;
      break;
    case EnsembleField::mixture:
      job.function = &mixture_rate;
      break;
    case EnsembleField::function:
      break;
  }
  run<Called>(job, scratch);
}

}  // namespace pushforward::PF_ISA
