// What a search keeps of a query's row: its two nearest train codes, its k nearest, or all within a
// radius. A row lives in registers while a chunk passes, and chunks meet in global memory.
//
// A row type has
//   Arguments                        what the kernel takes: a Batch, with more where it is needed
//   COLUMNS                          whether the search finds the nearest query of each train code
//   QUERIES                          rows that a thread keeps of codes of at most 32 bytes
//   RESIDENT                         blocks that a multiprocessor must have registers for; 0 leaves
//                                    it to the compiler, which else saves registers, even by spills
//   start(batch, exists)             an empty row; exists: the query is not a copy past the end
//   offer(batch, key, row, origin)   a train code; its index is the key's place + origin
//   publish(batch, row, origin)      the chunk is over
// where `row` counts over all pairs of the call.
#pragma once
#include "hamming_kernel.cuh"

namespace bindesc::cuda {

struct TwoNearest {
  using Arguments = Batch;
  static constexpr bool COLUMNS = true;
  static constexpr int QUERIES = 4;
  static constexpr int RESIDENT = 0;

  __device__ __forceinline__ void start(const Batch&, bool) { nearest_ = second_ = NO_SHORT_KEY; }

  __device__ __forceinline__ void offer(const Batch&, unsigned key, int64_t, unsigned) {
    second_ = smaller(second_, larger(nearest_, key));
    nearest_ = smaller(nearest_, key);
  }

  // Of the old minimum and this block's, the one that is not the new minimum is a candidate for
  // second place. Keys are distinct, so the result does not depend on the order of the blocks.
  __device__ __forceinline__ void publish(const Batch& batch, int64_t row, unsigned origin) const {
    const Key mine = widen(nearest_, origin);
    const Key old = atomicMin(&batch.nearest[row], mine);
    const Key beaten = old < mine ? mine : old;
    const Key candidate = widen(second_, origin);
    atomicMin(&batch.second[row], beaten < candidate ? beaten : candidate);
  }

 private:
  unsigned nearest_, second_;
};

constexpr int MAX_K = 32;

struct KNearestBatch : Batch {
  int k;  // 1 to MAX_K
};

struct KNearest {
  using Arguments = KNearestBatch;
  static constexpr bool COLUMNS = true;
  static constexpr int QUERIES = 1;
  static constexpr int RESIDENT = 5;

  // The list is always full, so that every place in it is known at compile time: zeros, which no
  // key is below, take the places that k leaves.
  __device__ __forceinline__ void start(const KNearestBatch& batch, bool exists) {
    const int zeros = exists ? MAX_K - batch.k : MAX_K;
#pragma unroll
    for (int i = 0; i < MAX_K; ++i) list_[i] = i < zeros ? 0 : NO_SHORT_KEY;
  }

  // Rarely is a key below the last one. It then goes down the list, and each place keeps the smaller.
  __device__ __forceinline__ void offer(const KNearestBatch&, unsigned key, int64_t, unsigned) {
    if (key >= list_[MAX_K - 1]) return;
#pragma unroll
    for (int i = 0; i < MAX_K; ++i) {
      const unsigned beaten = larger(list_[i], key);
      list_[i] = smaller(list_[i], key);
      key = beaten;
    }
  }

  // The same in global memory: what an atomic minimum beats goes on to the next place. Keys are
  // distinct, so each place ends with the smallest key that the places before it did not keep,
  // whatever the order of the blocks. The key of rank r starts at place r, because this list's
  // keys before it have left no larger ones above.
  __device__ __forceinline__ void publish(const KNearestBatch& batch, int64_t row,
                                          unsigned origin) const {
    Key* const places = batch.nearest + row * batch.k;
#pragma unroll
    for (int i = 0; i < MAX_K; ++i) {
      const int rank = i - (MAX_K - batch.k);
      if (rank < 0) continue;
      Key key = widen(list_[i], origin);
      // Places only ever get smaller: a value that is out of date costs time and nothing else.
      if (key >= places[batch.k - 1]) return;
      for (int place = rank; place < batch.k && key != NO_KEY; ++place) {
        const Key old = atomicMin(&places[place], key);
        key = old < key ? key : old;
      }
    }
  }

 private:
  unsigned list_[MAX_K];  // ascending
};

// Both passes of a radius search take one pair.
struct RadiusBatch : Batch {
  unsigned limit;                // bits, at most 512
  unsigned long long* offsets;   // [n + 1]
  int32_t* index;                // [neighbour]
  uint16_t* distance;            // [neighbour]

  // The key that those of all neighbours are below.
  __device__ __forceinline__ unsigned bound(bool exists) const {
    return exists ? (limit + 1) << PLACE_BITS : 0;
  }
};

// The first pass: adds the number of neighbours to offsets[row + 1].
struct CountWithin {
  using Arguments = RadiusBatch;
  static constexpr bool COLUMNS = false;
  static constexpr int QUERIES = 4;
  static constexpr int RESIDENT = 0;

  __device__ __forceinline__ void start(const RadiusBatch& batch, bool exists) {
    bound_ = batch.bound(exists);
    count_ = 0;
  }
  __device__ __forceinline__ void offer(const RadiusBatch&, unsigned key, int64_t, unsigned) {
    count_ += key < bound_;
  }
  __device__ __forceinline__ void publish(const RadiusBatch& batch, int64_t row, unsigned) const {
    if (count_) atomicAdd(&batch.offsets[row + 1], static_cast<unsigned long long>(count_));
  }

 private:
  unsigned bound_, count_;
};

// The second pass: offsets[row + 1] is where the row's next neighbour goes, in any order; in the
// end that is where the next row begins.
struct FillWithin {
  using Arguments = RadiusBatch;
  static constexpr bool COLUMNS = false;
  static constexpr int QUERIES = 2;  // the results' places take registers too
  static constexpr int RESIDENT = 5;

  __device__ __forceinline__ void start(const RadiusBatch& batch, bool exists) {
    bound_ = batch.bound(exists);
  }
  __device__ __forceinline__ void offer(const RadiusBatch& batch, unsigned key, int64_t row,
                                        unsigned origin) const {
    if (key >= bound_) return;
    const unsigned long long place = atomicAdd(&batch.offsets[row + 1], 1ull);
    batch.index[place] = static_cast<int32_t>((key & PLACE_MASK) + origin);
    batch.distance[place] = static_cast<uint16_t>(key >> PLACE_BITS);
  }
  __device__ __forceinline__ void publish(const RadiusBatch&, int64_t, unsigned) const {}

 private:
  unsigned bound_;
};

}  // namespace bindesc::cuda
