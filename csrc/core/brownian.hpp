// Pieces of a Brownian path: how one is cut in two and how two are joined. kernels/brownian.py is the definition.
#pragma once

#include "config.hpp"

namespace pushforward {

// The laws of both parts of a piece, cut at the fraction theta: numbers that multiply its increment W, its area H and
// two standard normals.
struct Cut {
  double theta, bend, spread;                      // W_left = theta W + bend H + spread z
  double square_left, share_left, twist_left;      // H_left = square_left H - share_left z + twist_left n
  double square_right, share_right, twist_right;   // H_right = square_right H - share_right z - twist_right n
};

}  // namespace pushforward

namespace pushforward::PF_ISA {

// Multiples of a power of two, of which sums are exact: adding and subtracting 1.5 * 2^52 of them rounds.
template <class D>
PF_HD D to_quanta(D x, double shift) {
  return (x + shift) - shift;
}

// Of a piece of this root of a length. Without areas, only theta and the spread are read.
inline Cut cut_at(double theta, double root, bool area) {
  const double phi = 1 - theta, both = __builtin_sqrt(theta * phi);
  if (!area) return {theta, 0, root * both, 0, 0, 0, 0, 0, 0};
  const double delta = __builtin_sqrt(theta * theta * theta + phi * phi * phi);
  const double share = root * both / (2 * delta), twist = root * both * 1.7320508075688772 / (6 * delta);
  return {theta,     6 * theta * phi, root * both * delta, theta * theta, share * (theta * theta),
          twist * phi, phi * phi,       share * (phi * phi), twist * theta};
}

template <class D>
PF_HD D left_increment(const Cut& cut, D w, D h, D z, double shift) {
  return to_quanta((w * cut.theta + h * cut.bend) + z * cut.spread, shift);
}
template <class D>
PF_HD D left_increment(const Cut& cut, D w, D z, double shift) {
  return to_quanta(w * cut.theta + z * cut.spread, shift);
}
template <class D>
PF_HD D left_area(const Cut& cut, D h, D z, D n) {
  return (h * cut.square_left - z * cut.share_left) + n * cut.twist_left;
}
template <class D>
PF_HD D right_area(const Cut& cut, D h, D z, D n) {
  return (h * cut.square_right - z * cut.share_right) - n * cut.twist_right;
}

// The area of two pieces that follow each other, of which these are the shares of the length.
template <class D>
PF_HD D joined_area(double first, double second, D w1, D h1, D w2, D h2) {
  return (h1 * first + h2 * second) + (w1 * second - w2 * first) * 0.5;
}
// The second of two pieces, from the first and both.
template <class D>
PF_HD D area_of_rest(double first, double second, D w1, D h1, D w2, D h) {
  return ((h - h1 * first) - (w1 * second - w2 * first) * 0.5) / second;
}

}  // namespace pushforward::PF_ISA
