// The walk through the tree that gives a row its increments; kernels/brownian_walk.py is the definition.
#include "brownian.hpp"

namespace pushforward {
namespace {

Cut cut_of(const BrownianJob& job, int level, double theta) {
  return PF_ISA::cut_at(theta, __builtin_sqrt(job.span / double(uint64_t(1) << level)), job.area);
}

struct Writer {
  const BrownianJob& job;
  WalkProgram& program;
  const double* time;
  int64_t stride, next = 0;
  double scale;       // leaves of the tree
  double length = 0;  // of the running increment

  double position() const { return time[next * stride] * scale; }
  bool done() const { return next == job.times; }

  // All times that lie here.
  void reach(double place) {
    for (; !done() && position() <= place; ++next) {
      if (next > 0) add(Walk::emit);
      length = 0;
    }
  }
  WalkStep& add(Walk walk) {
    program.steps.push_back({walk, false, 0, 0, 0, 1, 0, 1});
    return program.steps.back();
  }
  void shares(WalkStep& step, double piece) {
    const double sum = length + piece;
    step.first = length / sum;
    step.rest = piece / sum;
    length = sum;
  }
  void pass(double piece) {  // the whole top: a part of the running increment, if that has begun
    if (next == 0) {
      add(Walk::drop);
    } else {
      shares(add(Walk::take), piece);
    }
  }
  void cut(uint32_t node, int32_t place) {
    WalkStep& step = add(Walk::cut);
    step.node = node;
    step.cut = place;
  }
  int32_t leaf_cut(double theta) {
    program.cuts.push_back(cut_of(job, job.levels, theta));
    return int32_t(program.cuts.size()) - 1;
  }

  void visit(int level, uint32_t index, double low, double high) {
    if (done()) return;
    const uint32_t node = (uint32_t(1) << level) + index;
    if (position() >= high) {
      pass(high - low);
      return reach(high);
    }
    if (level == job.levels) return leaf(node, low, high);
    const double middle = low + (high - low) * 0.5;
    cut(node, level);
    visit(level + 1, 2 * index, low, middle);
    visit(level + 1, 2 * index + 1, middle, high);
  }

  void leaf(uint32_t node, double low, double high) {
    double before = 0, theta = position() - low;
    int64_t last = next;
    while (last < job.times && time[last * stride] * scale < high) ++last;
    const bool alone = time[(last - 1) * stride] * scale - low == theta;
    while (!alone && next < last) {
      theta = position() - low;
      WalkStep& step = add(Walk::copy);
      step.node = node;
      step.cut = leaf_cut(theta);
      step.dropped = next == 0;
      step.before = before / theta;
      step.within = 1 - step.before;
      if (!step.dropped) shares(step, theta - before);
      before = theta;
      reach(low + theta);
    }
    if (!alone && done()) return;
    cut(node, leaf_cut(theta));
    if (alone) {
      pass(theta);
      reach(low + theta);
    } else {
      add(Walk::drop);
    }
    if (done()) return;
    pass(high - (low + theta));
    reach(high);
  }
};

}  // namespace

void write_program(const BrownianJob& job, int64_t row, WalkProgram& program) {
  program.steps.clear();
  program.cuts.resize(size_t(job.levels));
  for (int level = 0; level < job.levels && program.levels != job.levels; ++level) {
    program.cuts[size_t(level)] = cut_of(job, level, 0.5);
  }
  program.levels = job.levels;
  const double scale = double(uint64_t(1) << job.levels);
  Writer writer{job, program, job.time + (job.shared ? 0 : row), job.shared ? 1 : job.rows, 0, scale, 0};
  writer.reach(0);
  writer.visit(0, 0, 0, scale);
}

}  // namespace pushforward
