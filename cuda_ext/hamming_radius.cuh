// A radius search between and after its two passes: where each query's neighbours begin, and their
// order.
#pragma once
#include "hamming_kernel.cuh"

namespace bindesc::cuda {

// Replaces each of n counts by the sum of those before it, and tells the sum of all. One block: the
// search before it takes far longer.
__global__ void __launch_bounds__(GROUP)
    offsets_kernel(unsigned long long* counts, unsigned n, unsigned long long* total) {
  __shared__ unsigned long long sums[2][GROUP];
  const unsigned thread = threadIdx.x;
  unsigned long long before = 0;
  for (unsigned first = 0; first < n; first += GROUP) {
    const unsigned row = first + thread;
    const unsigned long long mine = row < n ? counts[row] : 0;
    sums[0][thread] = mine;
    __syncthreads();
    unsigned from = 0;
    for (unsigned step = 1; step < GROUP; step *= 2) {  // sums[from]: of the last `step` counts
      const unsigned long long more = thread >= step ? sums[from][thread - step] : 0;
      sums[1 - from][thread] = sums[from][thread] + more;
      from = 1 - from;
      __syncthreads();
    }
    if (row < n) counts[row] = before + sums[from][thread] - mine;
    before += sums[from][GROUP - 1];
    __syncthreads();
  }
  if (thread == 0) *total = before;
}

// Sorts the neighbours of query number blockIdx.x, nearest first and then by index: a bitonic
// network in place. All of its comparators put the smaller one first, so those that reach past the
// end have nothing to do.
__global__ void __launch_bounds__(THREADS)
    sort_kernel(const unsigned long long* offsets, int32_t* index, uint16_t* distance) {
  const unsigned long long begin = offsets[blockIdx.x];
  const unsigned size = static_cast<unsigned>(offsets[blockIdx.x + 1] - begin);
  index += begin;
  distance += begin;
  for (unsigned run = 1; run < size; run *= 2) {  // runs of this length are sorted
    for (unsigned step = run; step > 0; step /= 2) {
      const unsigned mask = step == run ? 2 * run - 1 : step;  // first, one of a pair is reversed
      for (unsigned i = threadIdx.x; i < size; i += THREADS) {
        const unsigned j = i ^ mask;
        if (j < i || j >= size) continue;
        const int32_t index_i = index[i], index_j = index[j];
        const uint16_t distance_i = distance[i], distance_j = distance[j];
        if (distance_i < distance_j || (distance_i == distance_j && index_i < index_j)) continue;
        index[i] = index_j;
        index[j] = index_i;
        distance[i] = distance_j;
        distance[j] = distance_i;
      }
      __syncthreads();
    }
  }
}

}  // namespace bindesc::cuda
