// Walks chunks of rows through their programs, with the pieces of the path in the first-level cache.
#include "../brownian.hpp"

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
  alignas(64) float buffer[4 * (most_blocks + lanes)];
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
    for (; from < int64_t(program->size()); ++from) {
      const WalkStep& step = (*program)[size_t(from)];
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
    while (held < room && held * of_node < 4 * lanes && next_node(number)) {
      ++held;
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

template <class Number>
void put(Number* to, const double* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = Number(from[i]);
}

template <bool area>
struct Walker {
  const BrownianJob& job;
  Piece stack[most_levels + 2], running, part, before;
  NodeNormals normals;

  explicit Walker(const BrownianJob& job) : job(job) {}

  void append(const WalkStep& step, int64_t padded, const Piece& piece) {
    if (step.first == 0) return copy_piece(padded, piece, running);
    for (int64_t i = 0; i < padded; ++i) {
      if (area) {
        running.h[i] = joined_area(step.first, step.rest, running.w[i], running.h[i], piece.w[i], piece.h[i]);
      }
      running.w[i] = running.w[i] + piece.w[i];
    }
  }

  static void copy_piece(int64_t padded, const Piece& from, Piece& to) {
    for (int64_t i = 0; i < padded; ++i) to.w[i] = from.w[i];
    for (int64_t i = 0; area && i < padded; ++i) to.h[i] = from.h[i];
  }

  void cut(const WalkStep& step, int64_t padded, Piece& top, Piece& above) {
    const float *z, *n;
    normals.take(z, n);
    const Cut cut = step.cut;
    for (int64_t i = 0; i < padded; ++i) {
      const double w = top.w[i], first = double(z[i]);
      if (area) {
        const double h = top.h[i], second = double(n[i]);
        above.w[i] = left_increment(cut, w, h, first, job.shift);
        above.h[i] = left_area(cut, h, first, second);
        top.h[i] = right_area(cut, h, first, second);
      } else {
        above.w[i] = left_increment(cut, w, first, job.shift);
      }
      top.w[i] = w - above.w[i];
    }
  }

  void copy(const WalkStep& step, int64_t padded, const Piece& top) {
    const float *z, *n;
    normals.take(z, n);
    const Cut cut = step.cut;
    Piece rest;
    for (int64_t i = 0; i < padded; ++i) {
      const double first = double(z[i]);
      if (area) {
        part.w[i] = left_increment(cut, top.w[i], top.h[i], first, job.shift);
        part.h[i] = left_area(cut, top.h[i], first, double(n[i]));
      } else {
        part.w[i] = left_increment(cut, top.w[i], first, job.shift);
      }
      rest.w[i] = step.begins ? part.w[i] : part.w[i] - before.w[i];
      if (area) {
        rest.h[i] = step.begins ? part.h[i]
                                : area_of_rest(step.before, step.within, before.w[i], before.h[i], rest.w[i], part.h[i]);
      }
    }
    copy_piece(padded, part, before);
    if (!step.dropped) append(step, padded, rest);
  }

  template <class Number>
  void walk(const WalkProgram& program, int64_t row, int64_t element, int64_t count) {
    const int64_t padded = (count + 3) / 4 * 4;
    normals.begin(job, program, row, element, count);
    const float *z, *n;
    normals.take(z, n);
    const double root = __builtin_sqrt(job.span), root12 = __builtin_sqrt(job.span / 12);
    for (int64_t i = 0; i < padded; ++i) {
      stack[0].w[i] = to_quanta(double(z[i]) * root, job.shift);
      if (area) stack[0].h[i] = double(n[i]) * root12;
    }
    for (int64_t i = 0; i < padded; ++i) running.w[i] = running.h[i] = 0;
    const int64_t all = job.rows * job.row_size, at = row * job.row_size + element;
    Number* increments = reinterpret_cast<Number*>(job.increments) + at;
    Number* areas = reinterpret_cast<Number*>(job.areas) + at;
    int top = 0;
    for (const WalkStep& step : program) {
      switch (step.walk) {
        case Walk::cut:
          cut(step, padded, stack[top], stack[top + 1]);
          ++top;
          break;
        case Walk::drop:
          --top;
          break;
        case Walk::take:
          append(step, padded, stack[top--]);
          break;
        case Walk::copy:
          copy(step, padded, stack[top]);
          break;
        case Walk::emit:
          put(increments, running.w, count);
          if (area) put(areas, running.h, count);
          increments += all;
          areas += area ? all : 0;
          for (int64_t i = 0; i < padded; ++i) running.w[i] = running.h[i] = 0;
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
