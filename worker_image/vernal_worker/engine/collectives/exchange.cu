// All-reduce and all-gather of two ranks by pushing: each block writes a piece of its rank's data into the other rank's
// inbox, says so with a flag, waits for the same flag in its own inbox, and goes on with what it finds there.
//
// A block has two slots in each inbox and uses them in turns. It writes into a slot for turn t after it has seen the
// other side's flag of turn t - 1, which that side has set after it had read the slot of turn t - 2: so no slot is
// overwritten before it is read, and there is no barrier at the end. Both ranks launch the same kernels in the same
// order with the same sizes; blocks of the same number are at the same turn.
//
// Compiled at run time (NVRTC) without headers. BLOCKS, THREADS and SLOT (bytes) are defined by kernel.py.

typedef unsigned int u32;

struct State {
  unsigned char* out;  // the other rank's inbox
  unsigned char* in;   // this rank's inbox
  unsigned long long reserved[6];
  u32 turn[BLOCKS];
};

static __device__ __forceinline__ u32* flag(unsigned char* inbox, int block) {
  return reinterpret_cast<u32*>(inbox + 2ull * BLOCKS * SLOT + 128ull * block);
}

static __device__ __forceinline__ uint4* slot(unsigned char* inbox, int block, u32 turn) {
  return reinterpret_cast<uint4*>(inbox + (2ull * block + (turn & 1)) * SLOT);
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

// --- the sum of two words: rounded once, to nearest even, as NCCL does ---

struct Float32 {
  static __device__ __forceinline__ u32 add(u32 a, u32 b) {
    return __float_as_uint(__uint_as_float(a) + __uint_as_float(b));
  }
};

struct BFloat16 {
  static __device__ __forceinline__ u32 add(u32 a, u32 b) {
    float low = __uint_as_float(a << 16) + __uint_as_float(b << 16);
    float high = __uint_as_float(a & 0xffff0000u) + __uint_as_float(b & 0xffff0000u);
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
  }
};

struct Float16 {
  static __device__ __forceinline__ u32 add(u32 a, u32 b) {
    u32 both;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(both) : "r"(a), "r"(b));
    return both;
  }
};

template <typename T>
static __device__ __forceinline__ uint4 sum(uint4 a, uint4 b) {
  return make_uint4(T::add(a.x, b.x), T::add(a.y, b.y), T::add(a.z, b.z), T::add(a.w, b.w));
}

// --- the two operations ---

// What is done with 16 bytes of this rank's data and the same 16 bytes of the other's.
template <typename T>
struct Reduce {
  uint4* y;
  __device__ __forceinline__ void operator()(long long at, uint4 mine, uint4 other) const { y[at] = sum<T>(mine, other); }
};

struct Gather {
  uint4 *mine_to, *other_to;
  __device__ __forceinline__ void operator()(long long at, uint4 mine, uint4 other) const {
    mine_to[at] = mine;
    other_to[at] = other;
  }
};

constexpr int WIDE = 4;  // loads in flight a thread

template <typename Do>
static __device__ __forceinline__ void exchange(const uint4* x, long long count, int piece, State* state, Do apply) {
  const int block = blockIdx.x, thread = threadIdx.x;
  const long long pieces = (count + piece - 1) / piece;
  u32 turn = state->turn[block];
  unsigned char *const out = state->out, *const in = state->in;
  for (long long number = block; number < pieces; number += gridDim.x) {
    const long long base = number * piece;
    const int length = static_cast<int>(min(static_cast<long long>(piece), count - base));
    ++turn;
    uint4* const there = slot(out, block, turn);
    const uint4* const here = slot(in, block, turn);
    uint4 mine[WIDE], other[WIDE];
    for (int i = thread; i < length; i += WIDE * THREADS) {
#pragma unroll
      for (int k = 0; k < WIDE; ++k)
        if (i + k * THREADS < length) mine[k] = x[base + i + k * THREADS];
#pragma unroll
      for (int k = 0; k < WIDE; ++k)
        if (i + k * THREADS < length) there[i + k * THREADS] = mine[k];
    }
    __syncthreads();
    if (thread == 0) {
      tell(flag(out, block), turn);
      await(flag(in, block), turn);
    }
    __syncthreads();
    for (int i = thread; i < length; i += WIDE * THREADS) {
#pragma unroll
      for (int k = 0; k < WIDE; ++k)
        if (i + k * THREADS < length) {
          mine[k] = x[base + i + k * THREADS];
          other[k] = here[i + k * THREADS];
        }
#pragma unroll
      for (int k = 0; k < WIDE; ++k)
        if (i + k * THREADS < length) apply(base + i + k * THREADS, mine[k], other[k]);
    }
  }
  __syncthreads();
  if (thread == 0) state->turn[block] = turn;
}

extern "C" {

// x and y may be the same. count: of 16 bytes each; piece: how many of them at a time, at most SLOT / 16.
__global__ void __launch_bounds__(THREADS) reduce_float32(const uint4* x, uint4* y, long long count, int piece, State* s) {
  exchange(x, count, piece, s, Reduce<Float32>{y});
}
__global__ void __launch_bounds__(THREADS) reduce_bfloat16(const uint4* x, uint4* y, long long count, int piece, State* s) {
  exchange(x, count, piece, s, Reduce<BFloat16>{y});
}
__global__ void __launch_bounds__(THREADS) reduce_float16(const uint4* x, uint4* y, long long count, int piece, State* s) {
  exchange(x, count, piece, s, Reduce<Float16>{y});
}

// y is twice as long as x: first rank 0's data, then rank 1's.
__global__ void __launch_bounds__(THREADS)
    gather(const uint4* x, uint4* y, long long count, int piece, State* s, int rank) {
  exchange(x, count, piece, s, Gather{y + rank * count, y + (1 - rank) * count});
}

}
