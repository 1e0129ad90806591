// Exact Hamming search on the device: one pass that offers every train code to every query, and
// finds the nearest query of each train code.
//
// nvcc compiles this text for the device; a C++ compiler runs it on the CPU through simt/.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace bindesc::cuda {

// A neighbour in global memory: distance << 32 | index. The smaller key is the nearer neighbour,
// and among equal distances the one of lower index, so a plain minimum breaks ties as promised.
using Key = unsigned long long;
constexpr Key NO_KEY = ~0ull;

// A neighbour in a register: (distance << 22) + place, where place is the train code's position in
// the chunk plus the query's position in the block. Within a row the second is fixed and within a
// column the first, so one key orders both.
constexpr unsigned PLACE_BITS = 22;
constexpr unsigned PLACE_MASK = (1u << PLACE_BITS) - 1;
constexpr unsigned NO_SHORT_KEY = ~0u;

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = ~0u;
constexpr unsigned THREADS = 128;             // of a search block; also the train codes of a tile
constexpr unsigned MAX_BLOCK = 4 * THREADS;   // queries of a search block, at most
constexpr unsigned MAX_CHUNK = (1u << PLACE_BITS) - MAX_BLOCK;
constexpr unsigned GROUP = 256;               // queries of an output block
constexpr int MAX_PAIRS = 32;                 // image pairs of one launch

// One image pair. Its rows and columns are ranges of the arrays that all pairs of a call share.
struct Pair {
  const uint8_t* query;
  const uint8_t* train;
  int64_t first_row;
  int64_t first_column;
  unsigned n;      // queries
  unsigned m;      // train codes
  unsigned chunk;  // train codes that one block looks at, at most MAX_CHUNK
};

// The argument of every kernel, passed by value.
struct Batch {
  Pair pair[MAX_PAIRS];
  unsigned first_block[MAX_PAIRS];  // of search_kernel
  unsigned first_group[MAX_PAIRS];  // of count_kernel and emit_kernel
  int count;
  int width;              // bytes of a code
  Key* nearest;           // [row]; of KNearest [row][k]
  Key* second;            // [row]; unused by KNearest
  Key* column;            // [column]
  unsigned* group_count;  // [group] matches among its queries
};

template <int WORDS>
struct Code {
  unsigned word[WORDS];
};

template <int TABLE>
__device__ __forceinline__ unsigned logic3(unsigned a, unsigned b, unsigned c) {
#ifdef __CUDACC__
  // Written out, because the compiler splits some of these into two instructions.
  unsigned result;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(result) : "r"(a), "r"(b), "r"(c), "n"(TABLE));
  return result;
#else
  unsigned result = 0;
  for (int i = 0; i < 8; ++i)
    if (TABLE >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return result;
#endif
}
constexpr int XOR3 = 0x96;            // a ^ b ^ c, the sum of a full adder
constexpr int MAJORITY = 0xE8;        // its carry
constexpr int CARRY_FROM_SUM = 0xD4;  // its carry, given a, b and the sum in place of c

// Replaces words 2, 4 and 6 of each 8 by running sums: w2 ^= w0 ^ w1, w4 ^= w2 ^ w3, w6 ^= w4 ^ w5.
// The map is linear, so the xor of two such codes holds the sums of a chain of three full adders
// over the words of the difference, and an adder costs its carry alone. Done once a code.
template <int WORDS>
__device__ __forceinline__ void to_running_sums(Code<WORDS>& code) {
#pragma unroll
  for (int w = 2; w < WORDS; ++w)
    if (w % 2 == 0 && w % 8 != 0) code.word[w] ^= code.word[w - 2] ^ code.word[w - 1];
}

// base + (bits that differ << PLACE_BITS). For each 8 words, with carry-save adders: 13 logic
// operations, 4 popcounts and 4 multiply-adds, which run beside the logic on units of their own.
template <int WORDS>
__device__ __forceinline__ unsigned add_distance(const Code<WORDS>& a, const Code<WORDS>& b,
                                                 unsigned key) {
  constexpr unsigned ONE = 1u << PLACE_BITS;
  if constexpr (WORDS < 8) {
#pragma unroll
    for (int w = 0; w < WORDS; ++w) key += __popc(a.word[w] ^ b.word[w]) * ONE;
  } else {
#pragma unroll
    for (int w = 0; w < WORDS; w += 8) {
      unsigned x[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] = a.word[w + i] ^ b.word[w + i];
      const unsigned carry0 = logic3<CARRY_FROM_SUM>(x[0], x[1], x[2]);
      const unsigned carry1 = logic3<CARRY_FROM_SUM>(x[2], x[3], x[4]);
      const unsigned carry2 = logic3<CARRY_FROM_SUM>(x[4], x[5], x[6]);
      key += __popc(logic3<MAJORITY>(carry0, carry1, carry2)) * (4 * ONE);
      key += __popc(logic3<XOR3>(carry0, carry1, carry2)) * (2 * ONE);
      key += __popc(x[6]) * ONE;
      key += __popc(x[7]) * ONE;
    }
  }
  return key;
}

// Code number `row` of an array of `width`-byte codes, padded with zeros to WORDS words.
// VECTOR: the codes fill the words and start at a multiple of 16 bytes; else they start at an even
// address.
template <int WORDS, bool VECTOR>
__device__ __forceinline__ Code<WORDS> load_code(const uint8_t* codes, unsigned row, int width) {
  Code<WORDS> code;
  if constexpr (VECTOR) {
    const uint4* from = reinterpret_cast<const uint4*>(codes) + size_t{row} * (WORDS / 4);
#pragma unroll
    for (int v = 0; v < WORDS / 4; ++v) {
      const uint4 part = from[v];
      code.word[4 * v] = part.x;
      code.word[4 * v + 1] = part.y;
      code.word[4 * v + 2] = part.z;
      code.word[4 * v + 3] = part.w;
    }
  } else {
    const uint16_t* from = reinterpret_cast<const uint16_t*>(codes + size_t{row} * width);
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
      const unsigned low = 4 * w < width ? from[2 * w] : 0u;
      const unsigned high = 4 * w + 2 < width ? from[2 * w + 1] : 0u;
      code.word[w] = low | high << 16;
    }
  }
  if constexpr (WORDS >= 8) to_running_sums(code);
  return code;
}

__device__ __forceinline__ unsigned smaller(unsigned a, unsigned b) { return a < b ? a : b; }
__device__ __forceinline__ unsigned larger(unsigned a, unsigned b) { return a < b ? b : a; }

__device__ __forceinline__ unsigned warp_minimum(unsigned value) {
#if __CUDA_ARCH__ >= 800
  return __reduce_min_sync(ALL_LANES, value);
#else
#pragma unroll
  for (unsigned step = WARP / 2; step > 0; step /= 2)
    value = smaller(value, __shfl_xor_sync(ALL_LANES, value, step));
  return value;
#endif
}

// The image pair that `block` belongs to: the last one that starts at or before it.
__device__ __forceinline__ int owner(const unsigned* first, int count, unsigned block) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (first[middle] <= block)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// `origin` is what the place is counted from, modulo 2^32: place + origin is the index.
__device__ __forceinline__ Key widen(unsigned short_key, unsigned origin) {
  if (short_key == NO_SHORT_KEY) return NO_KEY;
  return Key{short_key >> PLACE_BITS} << 32 | ((short_key & PLACE_MASK) + origin);
}

// A block holds THREADS * QUERIES queries in registers and streams one chunk of train codes past
// them, a tile at a time, through shared memory. What a row keeps is for Row (hamming_rows.cuh) to
// say; columns are reduced over the warp, then the block, then by an atomic minimum in global memory.
template <int WORDS, int QUERIES, bool VECTOR, class Row>
__global__ void __launch_bounds__(THREADS, Row::RESIDENT)
    search_kernel(const __grid_constant__ typename Row::Arguments batch) {
  static_assert(THREADS * QUERIES <= MAX_BLOCK, "a column's place must fit its bits");
  __shared__ Code<WORDS> tile[THREADS];
  __shared__ unsigned warp_column[THREADS / WARP][THREADS];
  const unsigned thread = threadIdx.x;
  const int owning = owner(batch.first_block, batch.count, blockIdx.x);
  const Pair& pair = batch.pair[owning];
  const unsigned block = blockIdx.x - batch.first_block[owning];
  const unsigned row_blocks = (pair.n + THREADS * QUERIES - 1) / (THREADS * QUERIES);
  const unsigned row0 = block % row_blocks * (THREADS * QUERIES);
  const unsigned begin = block / row_blocks * pair.chunk;
  const unsigned end = pair.m - begin < pair.chunk ? pair.m : begin + pair.chunk;

  Code<WORDS> query[QUERIES];
  Row kept[QUERIES];
#pragma unroll
  for (int k = 0; k < QUERIES; ++k) {
    // Past the end the last query is repeated: its copies lose every tie to itself.
    const unsigned row = row0 + k * THREADS + thread;
    query[k] = load_code<WORDS, VECTOR>(pair.query, smaller(row, pair.n - 1), batch.width);
    kept[k].start(batch, row < pair.n);
  }

  for (unsigned tile0 = begin; tile0 < end; tile0 += THREADS) {
    const unsigned size = smaller(end - tile0, THREADS);
    if (thread < size)
      tile[thread] = load_code<WORDS, VECTOR>(pair.train, tile0 + thread, batch.width);
    __syncthreads();

#pragma unroll 4
    for (unsigned j = 0; j < size; ++j) {
      const Code<WORDS> train = tile[j];
      const unsigned place = tile0 - begin + j + thread;
      unsigned column_key = NO_SHORT_KEY;
#pragma unroll
      for (int k = 0; k < QUERIES; ++k) {
        const unsigned key = add_distance(query[k], train, place);
        kept[k].offer(batch, key, pair.first_row + row0 + k * THREADS + thread, begin - thread);
        column_key = smaller(column_key, key + k * THREADS);
      }
      if constexpr (Row::COLUMNS) {
        column_key = warp_minimum(column_key);
        if (thread % WARP == 0) warp_column[thread / WARP][j] = column_key;
      }
    }

    __syncthreads();
    if (Row::COLUMNS && thread < size) {
      unsigned column_key = warp_column[0][thread];
#pragma unroll
      for (unsigned w = 1; w < THREADS / WARP; ++w)
        column_key = smaller(column_key, warp_column[w][thread]);
      const unsigned column = tile0 + thread;
      atomicMin(&batch.column[pair.first_column + column],
                widen(column_key, row0 - (column - begin)));
    }
  }

#pragma unroll
  for (int k = 0; k < QUERIES; ++k) {
    const unsigned row = row0 + k * THREADS + thread;
    if (row < pair.n) kept[k].publish(batch, pair.first_row + row, begin - thread);
  }
}

}  // namespace bindesc::cuda
