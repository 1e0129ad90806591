// From keys to results: indices and distances, or the filters and a compact list of matches.
#pragma once
#include "hamming_kernel.cuh"

namespace bindesc::cuda {

constexpr int32_t NO_INDEX = -1;
constexpr uint16_t NO_DISTANCE = 0xFFFF;

struct Filter {
  double ratio;  // negative: no ratio test
  int margin;    // 0: no margin test
  int max_distance;
  int mutual;
};

// [row] arrays of each pair's matches, packed to the front of the pair's range; count is [pair].
struct Matches {
  int32_t* pairs;
  uint16_t* distance;
  int32_t* count;
};

__device__ __forceinline__ int bits_of(Key key) { return static_cast<int>(key >> 32); }
__device__ __forceinline__ unsigned index_of(Key key) { return static_cast<unsigned>(key); }

// Keys to indices and distances; entry i of the keys goes to entry i * stride + offset.
__global__ void __launch_bounds__(GROUP)
    decode_kernel(const Key* keys, int64_t count, int stride, int offset, int32_t* index,
                  uint16_t* distance) {
  const int64_t i = int64_t{blockIdx.x} * GROUP + threadIdx.x;
  if (i >= count) return;
  const Key key = keys[i];
  const bool found = key != NO_KEY;
  index[i * stride + offset] = found ? static_cast<int32_t>(index_of(key)) : NO_INDEX;
  distance[i * stride + offset] = found ? static_cast<uint16_t>(bits_of(key)) : NO_DISTANCE;
}

// Whether a query's nearest train code passes every test of the filter.
__device__ __forceinline__ bool keeps(const Batch& batch, const Pair& pair, const Filter& filter,
                                      unsigned row) {
  if (row >= pair.n) return false;
  const Key nearest = batch.nearest[pair.first_row + row];
  const Key second = batch.second[pair.first_row + row];
  if (nearest == NO_KEY || bits_of(nearest) > filter.max_distance) return false;
  if (filter.mutual && index_of(batch.column[pair.first_column + index_of(nearest)]) != row)
    return false;
  if (second == NO_KEY) return true;
  if (filter.ratio >= 0 && !(bits_of(nearest) < filter.ratio * bits_of(second))) return false;
  return bits_of(second) - bits_of(nearest) >= filter.margin;
}

// group_count[g] = matches among the queries of group g.
__global__ void __launch_bounds__(GROUP)
    count_kernel(const __grid_constant__ Batch batch, const Filter filter) {
  const int owning = owner(batch.first_group, batch.count, blockIdx.x);
  const unsigned row = (blockIdx.x - batch.first_group[owning]) * GROUP + threadIdx.x;
  const int kept = __syncthreads_count(keeps(batch, batch.pair[owning], filter, row));
  if (threadIdx.x == 0) batch.group_count[blockIdx.x] = kept;
}

// Writes the matches in query order, after those of the pair's earlier groups.
__global__ void __launch_bounds__(GROUP)
    emit_kernel(const __grid_constant__ Batch batch, const Filter filter, const Matches matches) {
  __shared__ unsigned earlier;                   // matches in the pair's earlier groups
  __shared__ unsigned warp_count[GROUP / WARP];  // matches in each warp
  const unsigned thread = threadIdx.x;
  const int owning = owner(batch.first_group, batch.count, blockIdx.x);
  const Pair& pair = batch.pair[owning];
  const unsigned first = batch.first_group[owning];
  const unsigned row = (blockIdx.x - first) * GROUP + thread;

  if (thread == 0) earlier = 0;
  __syncthreads();
  unsigned sum = 0;
  for (unsigned g = first + thread; g < blockIdx.x; g += GROUP) sum += batch.group_count[g];
  atomicAdd(&earlier, sum);
  const bool kept = keeps(batch, pair, filter, row);
  const unsigned lanes = __ballot_sync(ALL_LANES, kept);
  if (thread % WARP == 0) warp_count[thread / WARP] = __popc(lanes);
  __syncthreads();

  int64_t place = int64_t{earlier} + __popc(lanes & ((1u << thread % WARP) - 1));
  for (unsigned w = 0; w < thread / WARP; ++w) place += warp_count[w];
  if (kept) {
    const Key nearest = batch.nearest[pair.first_row + row];
    const int64_t out = pair.first_row + place;
    matches.pairs[2 * out] = static_cast<int32_t>(row);
    matches.pairs[2 * out + 1] = static_cast<int32_t>(index_of(nearest));
    matches.distance[out] = static_cast<uint16_t>(bits_of(nearest));
  }
  if (thread == GROUP - 1 && row + 1 >= pair.n)
    matches.count[owning] = static_cast<int32_t>(place + (kept ? 1 : 0));
}

}  // namespace bindesc::cuda
