// The k nearest codes of each query of a tile, collected from what a kernel reports.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu_kernel.h"
#include "hamming.h"

namespace bindesc {

inline int32_t index_of(uint64_t best) {
  return best == kNone ? kNoIndex : static_cast<int32_t>(best);
}

inline uint16_t distance_of(uint64_t best) {
  return best == kNone ? kNoDistance : static_cast<uint16_t>(best >> 32);
}

// Sorted lists of distance << 32 | index, one a row. Codes must come in ascending order.
class KBest {
 public:
  explicit KBest(int k) : k_(k), best_(static_cast<size_t>(kTile) * static_cast<size_t>(k), kNone) {
    std::fill_n(limit_, kTile, kNoDistance);
  }

  // For a sweep whose code 0 is code `base` of the whole set.
  Hits hits(int64_t base = 0) {
    base_ = base;
    return {limit_, report, this};
  }
  uint64_t* row(int row) { return best_.data() + row * k_; }

 private:
  static void report(void* context, int row, int64_t first, const uint16_t* distance,
                     uint32_t lanes) {
    auto& self = *static_cast<KBest*>(context);
    uint64_t* best = self.row(row);
    const int last = self.k_ - 1;
    first += self.base_;
    for (int lane = 0; lanes; ++lane, lanes >>= 1) {
      const uint64_t found = uint64_t{distance[lane]} << 32 | uint64_t(first + lane);
      if (!(lanes & 1) || found > best[last]) continue;
      int at = last;
      for (; at > 0 && best[at - 1] > found; --at) best[at] = best[at - 1];
      best[at] = found;
    }
    self.limit_[row] = distance_of(best[last]);
  }

  int k_;
  int64_t base_ = 0;
  uint16_t limit_[kTile];
  std::vector<uint64_t> best_;
};

}  // namespace bindesc
