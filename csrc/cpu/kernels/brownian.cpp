// Walks chunks of rows through their programs, with the pieces of the path in the first-level cache.
#include "../brownian.hpp"

#include "../doubles.hpp"
#include "../random.hpp"

namespace pushforward::PF_ISA {
namespace {

constexpr int64_t chunk = BrownianJob::chunk;
constexpr int most_levels = 31;

struct Piece {
  alignas(64) double w[chunk], h[chunk];
};

// Normals of the nodes of a program, two a node (one without areas) for every element of a chunk. Short rows have few
// blocks of four: so lanes run over nodes too.
struct NodeNormals {
  static constexpr int64_t most_blocks = 2 * chunk / 4 * 8;
  alignas(64) float buffer[4 * (most_blocks + 2 * lanes)];  // vectors read beyond their blocks
  const WalkProgram* program;
  Stream<uint32_t> streams[2];
  uint32_t attempt, first_block;
  int64_t blocks, held, used;  // blocks of a chunk; nodes that were made and taken
  int64_t from;                // where in the program the next node is looked for
  int stages;
  bool root;

  void begin(const BrownianJob& job, const WalkProgram& of, int64_t row, int64_t element, int64_t count) {
    program = &of;
    stages = job.area ? 2 : 1;
    const uint64_t sample = sample_of(job.key, row);
    Draw draw = draw_of(job.key);
    for (int stage = 0; stage < stages; ++stage) {
      draw.stage = uint32_t(stage);
      streams[stage] = stream_of<OneLane>(draw, uint32_t(sample), uint32_t(sample >> 32));
    }
    attempt = job.key.attempt;
    first_block = uint32_t(element / 4);
    blocks = (count + 3) / 4;
    held = used = from = 0;
    root = true;
  }

  bool next_node(uint32_t& node) {
    if (root) {
      node = 0;
      root = false;
      return true;
    }
    for (; from < int64_t(program->steps.size()); ++from) {
      const WalkStep& step = program->steps[size_t(from)];
      if (step.walk == Walk::cut || step.walk == Walk::copy) {
        node = step.node;
        ++from;
        return true;
      }
    }
    return false;
  }

  void refill() {
    const int64_t of_node = blocks * stages, room = most_blocks / of_node;
    alignas(64) uint32_t node[lanes] = {}, block[lanes] = {}, low[lanes] = {}, high[lanes] = {};
    int lane = 0;
    float* to = buffer;
    held = used = 0;
    uint32_t number = 0;
    const bool whole = blocks % lanes == 0;
    while (held < room && held * of_node < 4 * lanes && next_node(number)) {
      ++held;
      if (whole) {  // vectors belong to one node each: nothing is gathered
        for (int stage = 0; stage < stages; ++stage) {
          for (int64_t b = 0; b < blocks; b += lanes, to += 4 * lanes) {
            make(number, first_block + uint32_t(b), streams[stage], to);
          }
        }
        continue;
      }
      for (int stage = 0; stage < stages; ++stage) {
        for (int64_t b = 0; b < blocks; ++b) {
          node[lane] = number;
          block[lane] = first_block + uint32_t(b);
          low[lane] = streams[stage].k0;
          high[lane] = streams[stage].k1;
          if (++lane == lanes) {
            make(node, block, low, high, to);
            to += 4 * lanes;
            lane = 0;
          }
        }
      }
    }
    if (lane > 0) make(node, block, low, high, to);
  }

  void make(uint32_t node, uint32_t block, const Stream<uint32_t>& stream, float* to) {
    const Words32 zero = {};
    Words32 offset;
    for (int lane = 0; lane < lanes; ++lane) offset[lane] = uint32_t(block_of_lane(lane));
    Normals::make(philox<SplitLanes>(split(offset + block), split(zero + node), split(zero + attempt), split(zero),
                                     split(zero + stream.k0), split(zero + stream.k1)),
                  to);
  }

  void make(const uint32_t* node, const uint32_t* block, const uint32_t* low, const uint32_t* high, float* to) {
    Words32 nodes, numbers, lows, highs;
    for (int lane = 0; lane < lanes; ++lane) {
      const int at = block_of_lane(lane);
      nodes[lane] = node[at];
      numbers[lane] = block[at];
      lows[lane] = low[at];
      highs[lane] = high[at];
    }
    const Words32 zero = {};
    Normals::make(philox<SplitLanes>(split(numbers), split(nodes), split(zero + attempt), split(zero), split(lows),
                                     split(highs)),
                  to);
  }

  // Normals of the next node.
  void take(const float*& z, const float*& n) {
    if (used == held) refill();
    z = buffer + used * blocks * stages * 4;
    n = z + blocks * 4;
    ++used;
  }
};

// All of a piece's arithmetic is done by whole vectors; what lies behind the last element is computed and never stored.
template <class Step>
PF_HD void vectors(int64_t count, Step step) {
  for (int64_t i = 0; i < count; i += double_lanes) step(i);
}

template <class Number>
void put(Number* to, const double* from, int64_t count) {
  int64_t i = 0;
  for (; i + double_lanes <= count; i += double_lanes) store_doubles(to + i, load_doubles(from + i));
  for (; i < count; ++i) to[i] = Number(from[i]);
}

template <bool area>
struct Walker {
  const BrownianJob& job;
  const double shift;
  Piece stack[most_levels + 2], running, part, before;
  NodeNormals normals;

  explicit Walker(const BrownianJob& job) : job(job), shift(job.shift) {}

  void append(double first, double rest, int64_t count, const Piece& piece) {
    if (first == 0) return copy_piece(count, piece, running);
    vectors(count, [&](int64_t i) {
      const Doubles w1 = load_doubles(running.w + i), w2 = load_doubles(piece.w + i);
      if (area) {
        const Doubles h1 = load_doubles(running.h + i), h2 = load_doubles(piece.h + i);
        store_doubles(running.h + i, joined_area(first, rest, w1, h1, w2, h2));
      }
      store_doubles(running.w + i, w1 + w2);
    });
  }

  static void copy_piece(int64_t count, const Piece& from, Piece& to) {
    vectors(count, [&](int64_t i) {
      store_doubles(to.w + i, load_doubles(from.w + i));
      if (area) store_doubles(to.h + i, load_doubles(from.h + i));
    });
  }

  static void clear(int64_t count, Piece& piece) {
    vectors(count, [&](int64_t i) {
      store_doubles(piece.w + i, Doubles{});
      if (area) store_doubles(piece.h + i, Doubles{});
    });
  }

  void cut(const Cut& at, int64_t count, Piece& top, Piece& above) {
    const float *z, *n;
    normals.take(z, n);
    const Cut cut = at;
    const double shift = this->shift;
    vectors(count, [&](int64_t i) {
      const Doubles w = load_doubles(top.w + i), first = load_doubles(z + i);
      Doubles left;
      if (area) {
        const Doubles h = load_doubles(top.h + i), second = load_doubles(n + i);
        left = left_increment(cut, w, h, first, shift);
        store_doubles(above.h + i, left_area(cut, h, first, second));
        store_doubles(top.h + i, right_area(cut, h, first, second));
      } else {
        left = left_increment(cut, w, first, shift);
      }
      store_doubles(above.w + i, left);
      store_doubles(top.w + i, w - left);
    });
  }

  // A part of a piece that is cut in several places, all of them cuts of the whole piece.
  void copy(const WalkStep& step, const Cut& at, int64_t count, const Piece& top) {
    const float *z, *n;
    normals.take(z, n);
    const Cut cut = at;
    const double shift = this->shift;
    vectors(count, [&](int64_t i) {
      const Doubles w = load_doubles(top.w + i), first = load_doubles(z + i);
      if (area) {
        const Doubles h = load_doubles(top.h + i);
        store_doubles(part.w + i, left_increment(cut, w, h, first, shift));
        store_doubles(part.h + i, left_area(cut, h, first, load_doubles(n + i)));
      } else {
        store_doubles(part.w + i, left_increment(cut, w, first, shift));
      }
    });
    if (step.before == 0) {
      copy_piece(count, part, before);
      if (!step.dropped) append(step.first, step.rest, count, part);
      return;
    }
    vectors(count, [&](int64_t i) {
      const Doubles w = load_doubles(part.w + i), w1 = load_doubles(before.w + i), rest = w - w1;
      store_doubles(before.w + i, w);
      store_doubles(part.w + i, rest);
      if (area) {
        const Doubles h = load_doubles(part.h + i), h1 = load_doubles(before.h + i);
        store_doubles(before.h + i, h);
        store_doubles(part.h + i, area_of_rest(step.before, step.within, w1, h1, rest, h));
      }
    });
    if (!step.dropped) append(step.first, step.rest, count, part);
  }

  template <class Number>
  void walk(const WalkProgram& program, int64_t row, int64_t element, int64_t count) {
    normals.begin(job, program, row, element, count);
    const float *z, *n;
    normals.take(z, n);
    const double root = __builtin_sqrt(job.span), root12 = __builtin_sqrt(job.span / 12);
    vectors(count, [&](int64_t i) {
      store_doubles(stack[0].w + i, to_quanta(load_doubles(z + i) * root, shift));
      if (area) store_doubles(stack[0].h + i, load_doubles(n + i) * root12);
    });
    clear(count, running);
    const int64_t all = job.rows * job.row_size, at = row * job.row_size + element;
    Number* increments = reinterpret_cast<Number*>(job.increments) + at;
    Number* areas = reinterpret_cast<Number*>(job.areas) + at;
    int top = 0;
    for (const WalkStep& step : program.steps) {
      switch (step.walk) {
        case Walk::cut:
          cut(program.cuts[size_t(step.cut)], count, stack[top], stack[top + 1]);
          ++top;
          break;
        case Walk::drop:
          --top;
          break;
        case Walk::take:
          append(step.first, step.rest, count, stack[top--]);
          break;
        case Walk::copy:
          copy(step, program.cuts[size_t(step.cut)], count, stack[top]);
          break;
        case Walk::emit:
          put(increments, running.w, count);
          if (area) put(areas, running.h, count);
          increments += all;
          areas += area ? all : 0;
          clear(count, running);
          break;
      }
    }
  }
};

template <bool area>
void run(const BrownianJob& job, const WalkProgram& shared, int64_t first, int64_t last) {
  Walker<area> walker(job);
  WalkProgram own;
  const int64_t chunks = job.chunks();
  int64_t written = -1;
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t row = unit / chunks, element = unit % chunks * chunk;
    const int64_t left = job.row_size - element, count = left < chunk ? left : chunk;
    if (!job.shared && row != written) {
      write_program(job, row, own);
      written = row;
    }
    const WalkProgram& program = job.shared ? shared : own;
    if (job.dtype == Dtype::float64) {
      walker.template walk<double>(program, row, element, count);
    } else {
      walker.template walk<float>(program, row, element, count);
    }
  }
}

}  // namespace

void brownian_chunks(const BrownianJob& job, const WalkProgram& shared, int64_t first, int64_t last) {
  job.area ? run<true>(job, shared, first, last) : run<false>(job, shared, first, last);
}

}  // namespace pushforward::PF_ISA
