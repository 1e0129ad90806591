#include "cpu_database.h"

#include <algorithm>
#include <vector>

#include "cpu_kbest.h"
#include "cpu_parallel.h"

namespace bindesc {
namespace {

constexpr int64_t kPiece = 128;             // blocks that a thread takes at once
constexpr int64_t kPairsAThread = 200'000;  // fewer are not worth a thread

// What one thread finds for a tile. The kernel also keeps the best query of each code; nobody asks
// for it here, so every piece goes through the same short scratch, which stays in the cache.
struct Searcher {
  KBest best;
  Aligned<uint16_t> key, tile;

  Searcher(int k, int64_t slots)
      : best(k), key(make_aligned<uint16_t>(slots)), tile(make_aligned<uint16_t>(slots)) {
    std::fill_n(key.get(), slots, uint16_t{0});
    std::fill_n(tile.get(), slots, uint16_t{0});
  }
};

}  // namespace

Database::Database(const Kernel& kernel, Codes codes)
    : kernel_(kernel), rows_(codes.rows), bytes_(codes.bytes), packed_(codes, kernel.lanes) {}

bool Database::nearest(Codes query, int k, int threads, Stop& stop, int32_t* index,
                       uint16_t* distance) const {
  std::fill_n(index, query.rows * k, kNoIndex);
  std::fill_n(distance, query.rows * k, kNoDistance);
  if (rows_ == 0) return true;
  const Blocks& all = packed_.blocks();
  const int lanes = kernel_.lanes, words = all.words_per_code;
  const int64_t pieces = (all.count + kPiece - 1) / kPiece;
  const auto tile_words = make_aligned<uint32_t>(int64_t{kTile} * (words + 1));
  std::vector<uint64_t> merged;

  for (int64_t first = 0; first < query.rows; first += kTile) {
    const int rows = static_cast<int>(std::min<int64_t>(kTile, query.rows - first));
    pack_tile(query, first, rows, words, tile_words.get());
    const Tile tile{tile_words.get(), rows, 0};
    const int64_t worth = std::max<int64_t>(1, rows * rows_ / kPairsAThread);
    const int used = static_cast<int>(std::min({int64_t{threads}, pieces, worth}));
    std::vector<Searcher> searchers;
    for (int i = 0; i < used; ++i) searchers.emplace_back(k, kPiece * lanes);

    const auto task = [&](int64_t piece, int worker) {
      Searcher& own = searchers[static_cast<size_t>(worker)];
      const int64_t start = piece * kPiece;
      const int64_t count = std::min(kPiece, all.count - start);
      const bool last = start + count == all.count;
      const Blocks blocks{all.words + start * lanes * words, count, words, last ? all.tail : lanes};
      kernel_.within(blocks, tile, {own.key.get(), own.tile.get()}, own.best.hits(start * lanes));
    };
    if (!parallel_for(pieces, used, stop, task)) return false;

    for (int row = 0; row < rows; ++row) {
      merged.clear();
      for (Searcher& own : searchers) {
        merged.insert(merged.end(), own.best.row(row), own.best.row(row) + k);
      }
      std::sort(merged.begin(), merged.end());
      for (int rank = 0; rank < k; ++rank) {
        const uint64_t found = merged[static_cast<size_t>(rank)];
        index[(first + row) * k + rank] = index_of(found);
        distance[(first + row) * k + rank] = distance_of(found);
      }
    }
  }
  return true;
}

}  // namespace bindesc
