// The k nearest neighbours of each query and the best query of each train code, in one sweep.
#include <algorithm>

#include "cpu_kernel.h"
#include "cpu_pack.h"
#include "cpu_sweeps.h"
#include "hamming.h"

namespace bindesc {
namespace {

int32_t index_of(uint64_t best) { return best == kNone ? kNoIndex : static_cast<int32_t>(best); }

uint16_t distance_of(uint64_t best) {
  return best == kNone ? kNoDistance : static_cast<uint16_t>(best >> 32);
}

// The k best of one tile's rows, as sorted lists of distance << 32 | index.
class KBest {
 public:
  explicit KBest(int k) : k_(k), best_(static_cast<size_t>(kTile) * k, kNone) {
    std::fill_n(limit_, kTile, kNoDistance);
  }

  Hits hits() { return {limit_, report, this}; }
  const uint64_t* row(int row) const { return best_.data() + row * k_; }

 private:
  static void report(void* context, int row, int64_t first, const uint16_t* distance,
                     uint32_t lanes) {
    auto& self = *static_cast<KBest*>(context);
    uint64_t* best = self.best_.data() + row * self.k_;
    const int last = self.k_ - 1;
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
  uint16_t limit_[kTile];
  std::vector<uint64_t> best_;
};

}  // namespace

bool nearest(const Kernel& kernel, Codes query, Codes train, int k, int threads, Stop& stop,
             NearestOut out) {
  std::fill_n(out.column_index, train.rows, kNoIndex);
  std::fill_n(out.column_distance, train.rows, kNoDistance);
  if (query.rows == 0 || train.rows == 0) {
    std::fill_n(out.index, query.rows * k, kNoIndex);
    std::fill_n(out.distance, query.rows * k, kNoDistance);
    return true;
  }
  const auto write = [&](int64_t row, int rank, uint64_t best) {
    out.index[row * k + rank] = index_of(best);
    out.distance[row * k + rank] = distance_of(best);
  };
  const auto tile = [&](const Blocks& blocks, const Tile& tile, const Columns& columns,
                        int64_t first) {
    if (k <= 2) {
      Best best[kTile];
      std::fill_n(best, kTile, Best{kNone, kNone});
      kernel.top2(blocks, tile, columns, best);
      for (int row = 0; row < tile.rows; ++row) {
        write(first + row, 0, best[row].first);
        if (k == 2) write(first + row, 1, best[row].second);
      }
    } else {
      KBest best(k);
      kernel.within(blocks, tile, columns, best.hits());
      for (int row = 0; row < tile.rows; ++row) {
        for (int rank = 0; rank < k; ++rank) write(first + row, rank, best.row(row)[rank]);
      }
    }
  };
  return sweep_tiles(kernel, query, train, threads, stop, tile, out.column_index,
                     out.column_distance);
}

}  // namespace bindesc
