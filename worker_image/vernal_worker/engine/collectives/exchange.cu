// All-reduce and all-gather of RANKS ranks by pushing: each block writes a piece of its rank's data into the inboxes of
// all others, says so with a flag in each, waits for their flags in its own inbox, and goes on with what it finds there.
// That is one turn.
//
// A rank's inbox has one part for each rank that writes into it. A block has two slots in each part and uses them in
// turns. It writes into a slot for turn t after it has seen that rank's flag of turn t - 1, which that rank has set after
// it had read its slots of turn t - 2: so no slot is overwritten before it is read, and there is no barrier at the end.
// All ranks launch the same kernels in the same order with the same sizes; blocks of the same number are at the same turn.
//
// A sum takes one turn a piece where every rank sends all of it to every other (the fewest steps: small tensors, and two
// ranks), or two: first each rank gets, and adds, its own share of the piece from all others, then it sends them the sum
// (2 (RANKS - 1) / RANKS of the bytes instead of RANKS - 1: large tensors). Ranks are added in their order, in float32,
// and rounded once, so that every rank has the same bits.
//
// Compiled at run time (NVRTC) without headers. RANKS, BLOCKS, THREADS and SLOT (bytes) are defined by kernel.py.

typedef unsigned int u32;

struct State {
  unsigned char* inbox[RANKS];  // of each rank, as this rank's GPU sees it
  u32 turn[BLOCKS];
};

constexpr unsigned long long PART = 2ull * BLOCKS * SLOT + 128ull * BLOCKS;

static __device__ __forceinline__ u32* flag(unsigned char* inbox, int writer, int block) {
  return reinterpret_cast<u32*>(inbox + writer * PART + 2ull * BLOCKS * SLOT + 128ull * block);
}

static __device__ __forceinline__ uint4* slot(unsigned char* inbox, int writer, int block, u32 turn) {
  return reinterpret_cast<uint4*>(inbox + writer * PART + (2ull * block + (turn & 1)) * SLOT);
}

static __device__ __forceinline__ void tell(u32* flag, u32 turn) {
  asm volatile("fence.acq_rel.sys;\n\tst.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(turn) : "memory");
}

static __device__ __forceinline__ void await(u32* flag, u32 turn) {
  u32 seen;
  do {
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
  } while (static_cast<int>(seen - turn) < 0);
}

// --- adding words, which hold one or two elements ---

struct Float32 {
  float sum = 0;
  __device__ __forceinline__ void add(u32 a) { sum += __uint_as_float(a); }
  __device__ __forceinline__ u32 rounded() const { return __float_as_uint(sum); }
};

struct BFloat16 {
  float low = 0, high = 0;
  __device__ __forceinline__ void add(u32 a) {
    low += __uint_as_float(a << 16);
    high += __uint_as_float(a & 0xffff0000u);
  }
  __device__ __forceinline__ u32 rounded() const {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
  }
};

struct Float16 {
  float low = 0, high = 0;
  __device__ __forceinline__ void add(u32 a) {
    float one, two;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}" : "=f"(one), "=f"(two) : "r"(a));
    low += one;
    high += two;
  }
  __device__ __forceinline__ u32 rounded() const {
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
  }
};

template <typename T>
struct Sum {
  T x, y, z, w;
  __device__ __forceinline__ void add(uint4 a) { x.add(a.x), y.add(a.y), z.add(a.z), w.add(a.w); }
  __device__ __forceinline__ uint4 rounded() const {
    return make_uint4(x.rounded(), y.rounded(), z.rounded(), w.rounded());
  }
};

// --- one block's turns ---

constexpr int WIDE = 4;  // loads in flight a thread

struct Block {
  State* state;
  int rank;
  u32 turn;

  __device__ Block(State* s, int rank) : state(s), rank(rank), turn(s->turn[blockIdx.x]) {}

  // The others' slots that this block fills in this turn, and the ones that they fill for it.
  __device__ __forceinline__ uint4* to(int other) const { return slot(state->inbox[other], rank, blockIdx.x, turn); }
  __device__ __forceinline__ const uint4* from(int other) const {
    return slot(state->inbox[rank], other, blockIdx.x, turn);
  }

  __device__ __forceinline__ void begin() { ++turn; }

  // What the others' slots hold is complete, and so are this block's own.
  __device__ __forceinline__ void meet() const {
    __syncthreads();
    const int other = threadIdx.x;
    if (other < RANKS && other != rank) {
      tell(flag(state->inbox[other], rank, blockIdx.x), turn);
      await(flag(state->inbox[rank], other, blockIdx.x), turn);
    }
    __syncthreads();
  }

  __device__ void end() const {
    __syncthreads();
    if (threadIdx.x == 0) state->turn[blockIdx.x] = turn;
  }

  // Copy `length` units of x into a slot of every other rank.
  __device__ __forceinline__ void push(const uint4* x, int length) const {
    uint4 mine[WIDE];
    for (int i = threadIdx.x; i < length; i += WIDE * THREADS) {
#pragma unroll
      for (int k = 0; k < WIDE; ++k)
        if (i + k * THREADS < length) mine[k] = x[i + k * THREADS];
#pragma unroll
      for (int step = 1; step < RANKS; ++step) {  // not all to the same rank at once
        uint4* const there = to((rank + step) % RANKS);
#pragma unroll
        for (int k = 0; k < WIDE; ++k)
          if (i + k * THREADS < length) there[i + k * THREADS] = mine[k];
      }
    }
  }

  // y = this rank's x and what is in the others' slots, in the order of ranks.
  template <typename T>
  __device__ __forceinline__ void add(const uint4* x, uint4* y, int length) const {
    for (int i = threadIdx.x; i < length; i += WIDE * THREADS) {
      Sum<T> sums[WIDE] = {};
#pragma unroll
      for (int each = 0; each < RANKS; ++each) {
        const uint4* const data = each == rank ? x : from(each);
#pragma unroll
        for (int k = 0; k < WIDE; ++k)
          if (i + k * THREADS < length) sums[k].add(data[i + k * THREADS]);
      }
#pragma unroll
      for (int k = 0; k < WIDE; ++k)
        if (i + k * THREADS < length) y[i + k * THREADS] = sums[k].rounded();
    }
  }

  static __device__ __forceinline__ void copy(const uint4* from, uint4* to, int length) {
    uint4 data[WIDE];
    for (int i = threadIdx.x; i < length; i += WIDE * THREADS) {
#pragma unroll
      for (int k = 0; k < WIDE; ++k)
        if (i + k * THREADS < length) data[k] = from[i + k * THREADS];
#pragma unroll
      for (int k = 0; k < WIDE; ++k)
        if (i + k * THREADS < length) to[i + k * THREADS] = data[k];
    }
  }
};

// --- the operations: count and piece are in units of 16 bytes ---

template <typename T>
static __device__ __forceinline__ void reduce_at_once(
    const uint4* x, uint4* y, long long count, int piece, State* s, int rank) {
  Block block(s, rank);
  for (long long base = static_cast<long long>(blockIdx.x) * piece; base < count;
       base += static_cast<long long>(gridDim.x) * piece) {
    const int length = static_cast<int>(min(static_cast<long long>(piece), count - base));
    block.begin();
    block.push(x + base, length);
    block.meet();
    block.add<T>(x + base, y + base, length);
  }
  block.end();
}

// A rank's share of a piece: each but the last has `share` units.
struct Share {
  int start, length;
  __device__ Share(int number, int length_of_piece) {
    const int share = (length_of_piece + RANKS - 1) / RANKS;
    start = min(number * share, length_of_piece);
    length = min(share, length_of_piece - start);
  }
};

template <typename T>
static __device__ __forceinline__ void reduce_by_shares(
    const uint4* x, uint4* y, long long count, int piece, State* s, int rank) {
  Block block(s, rank);
  for (long long base = static_cast<long long>(blockIdx.x) * piece; base < count;
       base += static_cast<long long>(gridDim.x) * piece) {
    const int length = static_cast<int>(min(static_cast<long long>(piece), count - base));
    const Share own(rank, length);
    block.begin();
    for (int step = 1; step < RANKS; ++step) {
      const int other = (rank + step) % RANKS;
      const Share share(other, length);
      Block::copy(x + base + share.start, block.to(other), share.length);
    }
    block.meet();
    block.add<T>(x + base + own.start, y + base + own.start, own.length);
    block.begin();
    __syncthreads();  // other threads push what this one has added
    block.push(y + base + own.start, own.length);
    block.meet();
    for (int step = 1; step < RANKS; ++step) {
      const int other = (rank + step) % RANKS;
      const Share share(other, length);
      Block::copy(block.from(other), y + base + share.start, share.length);
    }
  }
  block.end();
}

extern "C" {

// x and y may be the same. count: of 16 bytes each; piece: how many of them at a time, at most SLOT / 16.
#define REDUCE(NAME, TYPE)                                                                             \
  __global__ void __launch_bounds__(THREADS)                                                           \
      reduce_##NAME(const uint4* x, uint4* y, long long count, int piece, State* s, int rank) {        \
    reduce_at_once<TYPE>(x, y, count, piece, s, rank);                                                 \
  }                                                                                                    \
  __global__ void __launch_bounds__(THREADS)                                                           \
      shared_reduce_##NAME(const uint4* x, uint4* y, long long count, int piece, State* s, int rank) { \
    reduce_by_shares<TYPE>(x, y, count, piece, s, rank);                                               \
  }

REDUCE(float32, Float32)
REDUCE(bfloat16, BFloat16)
REDUCE(float16, Float16)

// y is RANKS times as long as x: the ranks' data in their order.
__global__ void __launch_bounds__(THREADS)
    gather(const uint4* x, uint4* y, long long count, int piece, State* s, int rank) {
  Block block(s, rank);
  for (long long base = static_cast<long long>(blockIdx.x) * piece; base < count;
       base += static_cast<long long>(gridDim.x) * piece) {
    const int length = static_cast<int>(min(static_cast<long long>(piece), count - base));
    block.begin();
    block.push(x + base, length);
    block.meet();
    for (int each = 0; each < RANKS; ++each)
      Block::copy(each == rank ? x + base : block.from(each), y + each * count + base, length);
  }
  block.end();
}

}
