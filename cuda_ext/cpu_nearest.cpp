// The k nearest neighbours of each query and the best query of each train code, in one sweep.
#include <algorithm>

#include "cpu_kbest.h"
#include "cpu_kernel.h"
#include "cpu_nearest_tables.h"
#include "cpu_sweeps.h"
#include "hamming.h"

namespace bindesc {
bool nearest(const Kernel& kernel, Codes query, Codes train, int k, int threads, Stop& stop,
             NearestOut out) {
  std::fill_n(out.column_index, train.rows, kNoIndex);
  std::fill_n(out.column_distance, train.rows, kNoDistance);
  if (query.rows == 0 || train.rows == 0) {
    std::fill_n(out.index, query.rows * k, kNoIndex);
    std::fill_n(out.distance, query.rows * k, kNoDistance);
    return true;
  }
  if (tables_pay(kernel, query, train, k)) {
    return nearest_by_tables(kernel, query, train, k, threads, stop, out);
  }
  const auto write = [&](int64_t row, int rank, uint64_t best) {
    out.index[row * k + rank] = index_of(best);
    out.distance[row * k + rank] = distance_of(best);
  };
  const auto visit = [&](const Blocks& blocks, const Tile& tile, const Columns& columns,
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
  return sweep_tiles(kernel, query, train, threads, stop, visit, out.column_index,
                     out.column_distance);
}

}  // namespace bindesc
