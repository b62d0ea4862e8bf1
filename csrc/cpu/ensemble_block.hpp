// A block of trajectories that one thread integrates side by side: every lane has its own time and step size, all lanes
// take a step together, and a lane whose trajectory has ended gets the next one from the queue.
#pragma once

#include <cstring>
#include <limits>

#include "ensemble.hpp"
#include "ensemble_fields.hpp"
#include "ensemble_start.hpp"
#include "step_size.hpp"

namespace pushforward::PF_ISA {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double stretch = 1.01;      // a last step so much longer than planned spares a tiny one after it
constexpr double least_norm = 1e-10;  // an error of zero asks for the largest factor, not for an infinite one
constexpr double most_not_finite = 40;  // attempts in a row

// Rows of a block, one number a lane.
template <int S>
struct Rows {
  // Time, |h|, next time of output, log2 of the error norms of the last two accepted steps; the largest factor of the
  // next step, 1 after a rejected one; how many attempts in a row gave an error that was not finite.
  double *t, *size, *due, *last, *earlier, *bound, *not_finite;
  int64_t *accepted, *since, *id, *index;  // since: the number of the block's attempt that was the lane's first
  // Of the current attempt: h; times of a stage, and then mean squares of errors; whether it is accepted (-1), lanes
  // where something has to be done.
  double *step, *clock;
  int64_t *accept, *events;
  double *y, *params, *next, *point, *k[S];
};

template <class Field, int S>
class Block {
 public:
  Block(const EnsembleJob& job, double* scratch)
      : job(job), d(job.dim), own(job.shared ? 0 : job.parameters), lanes(job.width), outputs(job.count > 2) {
    const double start = job.times[0], end = job.times[job.count - 1];
    constants = {start, end, end > start ? 1.0 : -1.0, job.rtol, job.min_step, job.min_step > 0 ? 0.0 : 0x1p-48,
                 job.max_step, 1.0 / double(d), job.max_steps, job.control};
    auto take = [&](int64_t rows) {
      double* begin = scratch;
      scratch += rows * job.width;
      return begin;
    };
    auto integers = [&] { return reinterpret_cast<int64_t*>(take(1)); };
    Rows<S>& r = rows;
    r.t = take(1), r.size = take(1), r.due = take(1), r.last = take(1), r.earlier = take(1), r.bound = take(1);
    r.not_finite = take(1), r.accepted = integers(), r.since = integers(), r.id = integers(), r.index = integers();
    r.step = take(1), r.clock = take(1), r.accept = integers(), r.events = integers();
    r.y = take(d), r.params = take(own), r.next = take(d), r.point = take(d);
    for (int j = 0; j < S; ++j) r.k[j] = take(d);
    waiting_y = take(d), waiting_k = take(d), waiting_params = take(own), waiting_size = take(1);
  }

  void run() {
    while (live < lanes && take_into(live)) ++live;
    if (live > 0) {
      for (int64_t l = live; l < lanes; ++l) copy_lane(0, l);  // columns without a trajectory compute something, too
    }
    narrow();
    while (live > 0) {
      advance();
      narrow();
    }
  }

 private:
  const EnsembleJob& job;
  const int64_t d, own;
  int64_t lanes, live = 0;  // columns of the block, and how many of them, the first ones, hold a trajectory
  const bool outputs;  // at times between the first and the last
  Constants constants;
  Rows<S> rows;
  int64_t attempt = 0;           // of the block
  bool some_not_finite = false;  // there has been an error that was not finite

  // Trajectories that have been started together and wait for a lane.
  double *waiting_y, *waiting_k, *waiting_params, *waiting_size;
  int64_t waiting = 0, waiting_next = 0, waiting_lanes = 0, waiting_first = 0;

  // --- right-hand side -----------------------------------------------------------------------------------------------

  // Parameters of a fixed field for the vector at l.
  PF_HD void load_parameters(const double* from, int64_t columns, int64_t l, Doubles* p) const {
    for (int j = 0; j < Field::parameters; ++j) {
      p[j] = job.shared ? Doubles{} + from[j] : load_doubles(from + j * columns + l);
    }
  }

  void rate(int64_t columns, const double* times, const double* states, const double* own_params, double* out) const {
    const double* given = job.shared ? job.params : own_params;
    if constexpr (Field::dim == 0) {
      job.function(columns, d, times, states, given, out);
    } else {
      for (int64_t l = 0; l < columns; l += double_lanes) {
        Doubles x[Field::dim], p[Field::parameters], dx[Field::dim];
        for (int i = 0; i < Field::dim; ++i) x[i] = load_doubles(states + i * columns + l);
        load_parameters(given, columns, l, p);
        Field::rate(load_doubles(times + l), x, p, dx);
        for (int i = 0; i < Field::dim; ++i) store_doubles(out + i * columns + l, dx[i]);
      }
    }
  }

  // --- one step ------------------------------------------------------------------------------------------------------

  // y + h sum_j a_sj k_j, at one vector of a row.
  template <int s>
  PF_HD static Doubles stage_state(const Rows<S>& r, const Doubles (&a)[S], int64_t at, Doubles h) {
    Doubles sum = load_doubles(r.k[0] + at) * a[0];
    for (int j = 1; j < s; ++j) sum = fused(a[j], load_doubles(r.k[j] + at), sum);
    return fused(h, sum, load_doubles(r.y + at));
  }

  template <int s>
  void stage() {
    const Rows<S> r = rows;
    const int64_t lanes = this->lanes, d = this->d;
    const double c = job.pair.c[s];
    Doubles a[S];
    for (int j = 0; j < s; ++j) a[j] = Doubles{} + job.pair.a[s][j];
    double* const states = s == S - 1 ? r.next : r.point;
    if constexpr (Field::dim == 0) {
      for (int64_t l = 0; l < lanes; l += double_lanes) {
        store_doubles(r.clock + l, fused(c, load_doubles(r.step + l), load_doubles(r.t + l)));
      }
      for (int64_t i = 0; i < d; ++i) {
        for (int64_t l = 0; l < lanes; l += double_lanes) {
          store_doubles(states + i * lanes + l, stage_state<s>(r, a, i * lanes + l, load_doubles(r.step + l)));
        }
      }
      rate(lanes, r.clock, states, r.params, r.k[s]);
    } else {
      const double* const given = job.shared ? job.params : r.params;
      const int64_t columns = job.shared ? 0 : lanes;
      for (int64_t l = 0; l < lanes; l += double_lanes) {
        const Doubles h = load_doubles(r.step + l);
        Doubles x[Field::dim], p[Field::parameters], dx[Field::dim];
        for (int i = 0; i < Field::dim; ++i) {
          x[i] = stage_state<s>(r, a, i * lanes + l, h);
          if (s == S - 1) store_doubles(states + i * lanes + l, x[i]);
        }
        load_parameters(given, columns, l, p);
        Field::rate(fused(c, h, load_doubles(r.t + l)), x, p, dx);
        for (int i = 0; i < Field::dim; ++i) store_doubles(r.k[s] + i * lanes + l, dx[i]);
      }
    }
  }

  template <int s = 1>
  void stages() {
    stage<s>();
    if constexpr (s + 1 < S) stages<s + 1>();
  }

  // Mean square of the error over its tolerance; NaN where the new state is not finite.
  PF_HD Doubles mean_square(const Rows<S>& r, const Doubles (&e)[S], const Constants& c, int64_t l) const {
    Doubles sum{};
    const Doubles h = load_doubles(r.step + l);
    for (int64_t i = 0; i < d; ++i) {
      const int64_t at = i * lanes + l;
      Doubles estimate = load_doubles(r.k[0] + at) * e[0];
      for (int j = 1; j < S; ++j) estimate = fused(e[j], load_doubles(r.k[j] + at), estimate);
      const Doubles magnitude = larger_of(absolute(load_doubles(r.y + at)), absolute(load_doubles(r.next + at)));
      const Doubles tolerance = fused(c.rtol, magnitude, Doubles{} + job.atol[i]);
      const Doubles ratio = h * estimate * rough_reciprocal(tolerance);
      sum = fused(ratio, ratio, sum);
    }
    return sum * c.mean;
  }

  // Accept or reject, choose the next step size; lanes where something has to be done come out as bits.
  PF_HD unsigned judge(const Rows<S>& r, const Constants& c, int64_t l, Longs& accept) {
    const Doubles h = load_doubles(r.step + l), taken = absolute(h), before = load_doubles(r.last + l);
    const Doubles square = load_doubles(r.clock + l);
    accept = square <= 1.0;
    const Doubles clipped = larger_of(square < 1e20 ? square : Doubles{} + 1e20, Doubles{} + least_norm * least_norm);
    const Doubles norm = rough_log2(clipped) * 0.5;
    Doubles power = norm * -c.control.exponent[0];
    power = fused(-c.control.exponent[1], before, power);
    if (c.control.exponent[2] != 0) {
      const Doubles long_before = load_doubles(r.earlier + l);
      power = fused(-c.control.exponent[2], long_before, power);
      store_doubles(r.earlier + l, accept ? before : long_before);
    }
    power = accept ? power : norm * (-1.0 / c.control.order);
    const Doubles shifted = smaller_of(power - c.control.headroom, Doubles{});
    Doubles factor = larger_of(rough_exp2(shifted) * c.control.largest, Doubles{} + c.control.smallest);
    factor = smaller_of(factor, accept ? load_doubles(r.bound + l) : Doubles{} + c.control.safety);

    Longs stuck{};
    const Longs finite = square < endless;
    const unsigned all = (1u << double_lanes) - 1;
    if (__builtin_expect(bits_of(finite) != all || some_not_finite, 0)) {
      const Doubles times = finite ? Doubles{} : load_doubles(r.not_finite + l) + 1.0;
      store_doubles(r.not_finite + l, times);
      factor = finite ? factor : Doubles{} + 0.5;
      stuck = times >= most_not_finite;
      some_not_finite = true;
    }
    const Doubles wanted = taken * factor, old = load_doubles(r.t + l);
    store_doubles(r.size + l, wanted);
    store_doubles(r.bound + l, accept ? Doubles{} + c.control.largest : Doubles{} + 1.0);
    store_doubles(r.last + l, accept ? norm : before);
    store(r.accepted + l, load<Longs>(r.accepted + l) - accept);

    const Longs arrived = (c.end - old) * c.direction <= taken;
    const Longs passed = (old + h - load_doubles(r.due + l)) * c.direction >= 0.0;
    const Longs spent = load<Longs>(r.since + l) <= attempt - c.max_steps;
    stuck |= wanted < least_step(c, old);
    return bits_of((accept & (arrived | passed)) | (~accept & stuck) | spent);
  }

  // Below this a step is not tried again.
  PF_HD static Doubles least_step(const Constants& c, Doubles now) {
    const Doubles power_of_two = (Doubles)((Longs)now & int64_t(0x7FF0000000000000));
    return larger_of(power_of_two * c.least_share, Doubles{} + c.min_step);
  }

  // Move the lanes that were accepted to their new states.
  PF_HD void commit(const Rows<S>& r, const Constants& c, int64_t l, Longs accept) const {
    const Doubles old = load_doubles(r.t + l), h = load_doubles(r.step + l);
    const Longs arrived = (c.end - old) * c.direction <= absolute(h);
    const Doubles reached = arrived ? Doubles{} + c.end : old + h;
    store_doubles(r.t + l, accept ? reached : old);
    for (int64_t i = 0; i < d; ++i) {
      const int64_t at = i * lanes + l;
      store_doubles(r.y + at, accept ? load_doubles(r.next + at) : load_doubles(r.y + at));
      store_doubles(r.k[0] + at, accept ? load_doubles(r.k[S - 1] + at) : load_doubles(r.k[0] + at));
    }
  }

  void advance() {
    const Rows<S> r = rows;
    const Constants c = constants;
    Doubles e[S];
    for (int j = 0; j < S; ++j) e[j] = Doubles{} + job.pair.e[j];
    for (int64_t l = 0; l < lanes; l += double_lanes) {
      const Doubles left = (c.end - load_doubles(r.t + l)) * c.direction;
      const Doubles wanted = smaller_of(load_doubles(r.size + l), Doubles{} + c.max_step);
      const Doubles rest = left > c.max_step ? left * 0.5 : left;
      store_doubles(r.step + l, (left <= wanted * stretch ? rest : wanted) * c.direction);
    }
    stages();
    ++attempt;
    // Three short loops rather than a long one: more vectors are on their way at a time.
    for (int64_t l = 0; l < lanes; l += double_lanes) store_doubles(r.clock + l, mean_square(r, e, c, l));
    int64_t found = 0;
    for (int64_t l = 0; l < lanes; l += double_lanes) {
      Longs accept;
      unsigned set = judge(r, c, l, accept);
      store(r.accept + l, accept);
      if (__builtin_expect(set != 0, 0)) {
        if (l + double_lanes > live) set &= l < live ? (1u << (live - l)) - 1 : 0;
        for (; set; set &= set - 1) {
          const int lane = __builtin_ctz(set);
          if (outputs && accept[lane]) write_outputs(l + lane);
          r.events[found++] = l + lane;
        }
      }
    }
    for (int64_t l = 0; l < lanes; l += double_lanes) commit(r, c, l, load<Longs>(r.accept + l));
    // From the last to the first: a lane that ends and has no successor is filled with the last lane.
    while (found > 0) look_after(r.events[--found]);
  }

  // --- output --------------------------------------------------------------------------------------------------------

  double* output(int64_t which, int64_t trajectory) const { return job.y + (which * job.batch + trajectory) * d; }

  // Dense output at the times that the accepted step of lane l passes.
  void write_outputs(int64_t l) {
    const double h = rows.step[l], reached = rows.t[l] + h, direction = constants.direction;
    const bool arrives = (constants.end - rows.t[l]) * direction <= h * direction;
    while (rows.index[l] < job.count - 1) {
      if (!arrives && (reached - job.times[rows.index[l]]) * direction < 0) break;
      const double theta = (job.times[rows.index[l]] - rows.t[l]) / h;
      double weight[S];
      for (int j = 0; j < S; ++j) {
        const double* of = job.pair.dense[j];
        weight[j] = h * (theta * (of[0] + theta * (of[1] + theta * (of[2] + theta * of[3]))));
      }
      double* to = output(rows.index[l], rows.id[l]);
      for (int64_t i = 0; i < d; ++i) {
        double sum = 0;
        for (int j = 0; j < S; ++j) sum += weight[j] * rows.k[j][i * lanes + l];
        to[i] = rows.y[i * lanes + l] + sum;
      }
      ++rows.index[l];
    }
    rows.due[l] = rows.index[l] < job.count - 1 ? job.times[rows.index[l]] : direction * endless;
  }

  void look_after(int64_t l) {
    EnsembleStatus status = EnsembleStatus::success;
    const double least = least_step(constants, Doubles{} + rows.t[l])[0];
    if (!rows.accept[l] && (rows.not_finite[l] >= most_not_finite || rows.size[l] < least)) {
      status = rows.not_finite[l] > 0 ? EnsembleStatus::not_finite : EnsembleStatus::step_too_small;
    } else if (rows.t[l] != constants.end) {
      if (attempt - rows.since[l] < job.max_steps) return;  // only an output
      status = EnsembleStatus::too_many_steps;
    }
    double* to = job.final + rows.id[l] * d;
    for (int64_t i = 0; i < d; ++i) to[i] = rows.y[i * lanes + l];
    finish(rows.id[l], status, rows.t[l], rows.accepted[l], attempt - rows.since[l] - rows.accepted[l], rows.index[l]);
    if (take_into(l)) return;
    --live;
    if (l < live) copy_lane(live, l);
  }

  void finish(int64_t trajectory, EnsembleStatus status, double reached, int64_t yes, int64_t no, int64_t from) {
    job.status[trajectory] = int64_t(status);
    job.reached[trajectory] = reached;
    job.accepted[trajectory] = yes;
    job.rejected[trajectory] = no;
    const bool success = status == EnsembleStatus::success;
    for (int64_t which = from; which < job.count; ++which) {
      for (int64_t i = 0; i < d; ++i) {
        output(which, trajectory)[i] = success ? job.final[trajectory * d + i] : not_a_number;
      }
    }
  }

  // --- who is in which lane ------------------------------------------------------------------------------------------

  void copy_lane(int64_t from, int64_t to) {
    const Rows<S>& r = rows;
    for (double* row : {r.t, r.size, r.due, r.last, r.earlier, r.bound, r.not_finite}) row[to] = row[from];
    for (int64_t* row : {r.accepted, r.since, r.id, r.index}) row[to] = row[from];
    for (int64_t i = 0; i < d; ++i) {
      rows.y[i * lanes + to] = rows.y[i * lanes + from];
      rows.k[0][i * lanes + to] = rows.k[0][i * lanes + from];
    }
    for (int64_t j = 0; j < own; ++j) rows.params[j * lanes + to] = rows.params[j * lanes + from];
  }

  // Give up columns that hold nobody, a group at a time.
  void narrow() {
    const int64_t wanted = (live + lane_group - 1) / lane_group * lane_group;
    if (wanted == lanes || live == 0) return;
    for (int64_t i = 0; i < d; ++i) {
      std::memmove(rows.y + i * wanted, rows.y + i * lanes, wanted * sizeof(double));
      std::memmove(rows.k[0] + i * wanted, rows.k[0] + i * lanes, wanted * sizeof(double));
    }
    for (int64_t j = 0; j < own; ++j) {
      std::memmove(rows.params + j * wanted, rows.params + j * lanes, wanted * sizeof(double));
    }
    lanes = wanted;
    for (int64_t l = live; l < lanes; ++l) copy_lane(0, l);
  }

  // The next trajectory of the queue into lane l; false if there is none.
  bool take_into(int64_t l) {
    for (;;) {
      if (waiting_next == waiting && !start_some()) return false;
      const int64_t from = waiting_next++, trajectory = waiting_first + from;
      double* to = output(0, trajectory);
      for (int64_t i = 0; i < d; ++i) to[i] = job.y0[trajectory * d + i];
      if (!(waiting_size[from] < endless)) {
        for (int64_t i = 0; i < d; ++i) job.final[trajectory * d + i] = to[i];
        finish(trajectory, EnsembleStatus::not_finite, constants.start, 0, 0, 1);
        continue;
      }
      rows.t[l] = constants.start;
      rows.size[l] = waiting_size[from];
      rows.due[l] = outputs ? job.times[1] : constants.direction * endless;
      rows.last[l] = rows.earlier[l] = rows.not_finite[l] = 0;
      rows.bound[l] = constants.control.largest;
      rows.accepted[l] = 0;
      rows.since[l] = attempt;
      rows.id[l] = trajectory;
      rows.index[l] = 1;
      for (int64_t i = 0; i < d; ++i) {
        rows.y[i * lanes + l] = waiting_y[i * waiting_lanes + from];
        rows.k[0][i * lanes + l] = waiting_k[i * waiting_lanes + from];
      }
      for (int64_t j = 0; j < own; ++j) rows.params[j * lanes + l] = waiting_params[j * waiting_lanes + from];
      return true;
    }
  }

  // Take trajectories from the queue and find the slope and step size that each starts with.
  bool start_some() {
    const int64_t first = __atomic_fetch_add(job.queue, job.width, __ATOMIC_RELAXED);
    if (first >= job.batch) return false;
    const int64_t count = job.batch - first < job.width ? job.batch - first : job.width;
    const int64_t columns = waiting_lanes = (count + lane_group - 1) / lane_group * lane_group;
    waiting_first = first, waiting = count, waiting_next = 0;
    for (int64_t l = 0; l < columns; ++l) {
      const int64_t trajectory = first + (l < count ? l : 0);
      for (int64_t i = 0; i < d; ++i) waiting_y[i * columns + l] = job.y0[trajectory * d + i];
      for (int64_t j = 0; j < own; ++j) waiting_params[j * columns + l] = job.params[trajectory * own + j];
      rows.clock[l] = constants.start;
    }
    rate(columns, rows.clock, waiting_y, waiting_params, waiting_k);
    if (job.first_step > 0) {
      for (int64_t l = 0; l < columns; ++l) waiting_size[l] = job.first_step;
    } else {
      auto slopes = [&](const double* states, double* out) { rate(columns, rows.clock, states, waiting_params, out); };
      const StartRows start{waiting_y, waiting_k, waiting_size, rows.clock, rows.point, rows.next, rows.k[1]};
      first_steps(job, constants, columns, start, slopes);
    }
    for (int64_t i = 0; i < d; ++i) {  // not finite: no step
      for (int64_t l = 0; l < columns; ++l) {
        const double x = waiting_y[i * columns + l], slope = waiting_k[i * columns + l];
        waiting_size[l] += (x - x) + (slope - slope);
      }
    }
    return true;
  }
};

}  // namespace pushforward::PF_ISA
