// BLAKE3 of GPU memory: https://github.com/BLAKE3-team/BLAKE3-specs, sections 2.1 to 2.5; names are as there.
//
// `leaves` gives the chaining value of each chunk, `tree` joins those of each piece to its digest. Pieces are of one
// length, one after the other: whole chunks only, and two of them at least. Plain C but for the words that CUDA adds: its
// test compiles it for the CPU.

typedef unsigned int u32;
typedef unsigned long long u64;

static const u32 CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8;
static const u32 BLOCK_LEN = 64, CHUNK_LEN = 1024, WORDS = 8;

static __device__ __forceinline__ u32 rotate(u32 word, int bits) { return (word >> bits) | (word << (32 - bits)); }

static __device__ __forceinline__ void g(u32 *v, int a, int b, int c, int d, u32 x, u32 y) {
    v[a] = v[a] + v[b] + x;
    v[d] = rotate(v[d] ^ v[a], 16);
    v[c] = v[c] + v[d];
    v[b] = rotate(v[b] ^ v[c], 12);
    v[a] = v[a] + v[b] + y;
    v[d] = rotate(v[d] ^ v[a], 8);
    v[c] = v[c] + v[d];
    v[b] = rotate(v[b] ^ v[c], 7);
}

// The first words of the eight of SHA-256; also the key of the plain hash.
static __device__ __forceinline__ void initial(u32 *cv) {
    cv[0] = 0x6A09E667u; cv[1] = 0xBB67AE85u; cv[2] = 0x3C6EF372u; cv[3] = 0xA54FF53Au;
    cv[4] = 0x510E527Fu; cv[5] = 0x9B05688Cu; cv[6] = 0x1F83D9ABu; cv[7] = 0x5BE0CD19u;
}

// cv = compress(cv, block m); every index below is known to the compiler, so v and m stay in registers.
static __device__ __forceinline__ void compress(u32 *cv, u32 *m, u32 counter, u32 flags) {
    u32 v[16], start[8];
    initial(start);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = cv[i];
#pragma unroll
    for (int i = 0; i < 4; i++) v[8 + i] = start[i];
    v[12] = counter;
    v[13] = 0;  // the counter's upper half: a piece has less than 2^32 chunks
    v[14] = BLOCK_LEN;
    v[15] = flags;
#pragma unroll
    for (int round = 0; round < 7; round++) {
        g(v, 0, 4, 8, 12, m[0], m[1]);
        g(v, 1, 5, 9, 13, m[2], m[3]);
        g(v, 2, 6, 10, 14, m[4], m[5]);
        g(v, 3, 7, 11, 15, m[6], m[7]);
        g(v, 0, 5, 10, 15, m[8], m[9]);
        g(v, 1, 6, 11, 12, m[10], m[11]);
        g(v, 2, 7, 8, 13, m[12], m[13]);
        g(v, 3, 4, 9, 14, m[14], m[15]);
        u32 p[16] = {m[2], m[6], m[3], m[10], m[7], m[0], m[4], m[13], m[1], m[11], m[12], m[5], m[9], m[14], m[15], m[8]};
#pragma unroll
        for (int i = 0; i < 16; i++) m[i] = p[i];
    }
#pragma unroll
    for (int i = 0; i < 8; i++) cv[i] = v[i] ^ v[i + 8];
}

// One thread a chunk of `pieces` times `chunks`. `cvs`: 8 words a chunk, and behind those of a piece room for as many.
extern "C" __global__ void leaves(const uint4 *data, u32 pieces, u32 chunks, uint4 *cvs) {
    u64 thread = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u32 piece = thread / chunks, chunk = thread % chunks;
    if (piece >= pieces) return;
    const uint4 *from = data + thread * (CHUNK_LEN / 16);
    u32 cv[8], m[16];
    initial(cv);
    for (u32 block = 0; block < CHUNK_LEN / BLOCK_LEN; block++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint4 four = from[block * 4 + i];
            m[4 * i] = four.x; m[4 * i + 1] = four.y; m[4 * i + 2] = four.z; m[4 * i + 3] = four.w;
        }
        u32 flags = (block == 0 ? CHUNK_START : 0) | (block == CHUNK_LEN / BLOCK_LEN - 1 ? CHUNK_END : 0);
        compress(cv, m, chunk, flags);
    }
    uint4 *to = cvs + 2 * ((u64)piece * 2 * chunks + chunk);
    to[0] = uint4{cv[0], cv[1], cv[2], cv[3]};
    to[1] = uint4{cv[4], cv[5], cv[6], cv[7]};
}

// One thread block a piece: joins its `nodes` (at least 2) chaining values in `cvs` to its digest. Level by level, two
// neighbours at a time; one that is left alone waits a level. That is the specification's tree, whose left subtrees are
// the largest full ones.
extern "C" __global__ void tree(u32 *cvs, u32 nodes, u32 *digests) {
    u32 *from = cvs + (u64)blockIdx.x * 2 * nodes * WORDS, *to = from + (u64)nodes * WORDS;
    u32 *digest = digests + (u64)blockIdx.x * WORDS;
    while (nodes > 1) {
        u32 pairs = nodes / 2;
        for (u32 i = threadIdx.x; i < pairs; i += blockDim.x) {
            u32 cv[8], m[16];
            initial(cv);
#pragma unroll
            for (int w = 0; w < 16; w++) m[w] = from[(u64)i * 16 + w];
            compress(cv, m, 0, PARENT | (nodes == 2 ? ROOT : 0));
#pragma unroll
            for (int w = 0; w < 8; w++) (nodes == 2 ? digest : to + (u64)i * WORDS)[w] = cv[w];
        }
        for (u32 w = threadIdx.x; nodes % 2 == 1 && w < WORDS; w += blockDim.x)
            to[(u64)pairs * WORDS + w] = from[(u64)(nodes - 1) * WORDS + w];
        __syncthreads();
        nodes = pairs + nodes % 2;
        u32 *swap = from; from = to; to = swap;
    }
}
