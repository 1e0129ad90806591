// All neighbours within a radius.
#include <algorithm>

#include "cpu_sweeps.h"
#include "hamming.h"

namespace bindesc {
namespace {

using Found = std::vector<uint64_t>;  // distance << 32 | index

// What a sweep finds for one tile, by row.
struct TileHits {
  Found rows[kTile];

  static void report(void* context, int row, int64_t first, const uint16_t* distance,
                     uint32_t lanes) {
    Found& found = static_cast<TileHits*>(context)->rows[row];
    for (int lane = 0; lanes; ++lane, lanes >>= 1) {
      if (lanes & 1) found.push_back(uint64_t{distance[lane]} << 32 | uint64_t(first + lane));
    }
  }
};

}  // namespace

bool radius(const Kernel& kernel, Codes query, Codes train, int64_t max_distance, int threads,
            Stop& stop, Neighbours& out) {
  out.offsets.assign(static_cast<size_t>(query.rows) + 1, 0);
  out.index.clear();
  out.distance.clear();
  if (query.rows == 0 || train.rows == 0) return true;

  // No distance reaches kNoDistance, so that limit lets every code through.
  const auto limit = static_cast<uint16_t>(std::min<int64_t>(max_distance + 1, kNoDistance));
  std::vector<Found> found(static_cast<size_t>((query.rows + kTile - 1) / kTile));
  const auto visit = [&](const Blocks& blocks, const Tile& tile, const Columns& columns,
                         int64_t first) {
    TileHits hits;
    uint16_t limits[kTile];
    std::fill_n(limits, kTile, limit);
    kernel.within(blocks, tile, columns, {limits, TileHits::report, &hits});
    Found& all = found[static_cast<size_t>(first / kTile)];
    for (int row = 0; row < tile.rows; ++row) {
      std::sort(hits.rows[row].begin(), hits.rows[row].end());
      all.insert(all.end(), hits.rows[row].begin(), hits.rows[row].end());
      out.offsets[static_cast<size_t>(first + row) + 1] =
          static_cast<int64_t>(hits.rows[row].size());
    }
  };
  std::vector<int32_t> column_index(static_cast<size_t>(train.rows), kNoIndex);
  std::vector<uint16_t> column_distance(static_cast<size_t>(train.rows), kNoDistance);
  if (!sweep_tiles(kernel, query, train, threads, stop, visit, column_index.data(),
                   column_distance.data())) {
    return false;
  }

  for (size_t i = 1; i < out.offsets.size(); ++i) out.offsets[i] += out.offsets[i - 1];
  out.index.reserve(static_cast<size_t>(out.offsets.back()));
  out.distance.reserve(static_cast<size_t>(out.offsets.back()));
  for (Found& rows : found) {
    for (const uint64_t hit : rows) {
      out.index.push_back(static_cast<int32_t>(hit));
      out.distance.push_back(static_cast<uint16_t>(hit >> 32));
    }
    Found().swap(rows);
  }
  return true;
}

}  // namespace bindesc
