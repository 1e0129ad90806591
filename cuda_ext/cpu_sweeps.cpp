#include "cpu_sweeps.h"

#include <algorithm>

#include "cpu_pack.h"
#include "cpu_parallel.h"

namespace bindesc {
namespace {

// Pairs of 256-bit codes that take about as long as starting a thread does, a few times over.
constexpr int64_t kPairsAThread = 200'000;

struct Worker {
  Aligned<uint32_t> words;
  Aligned<uint16_t> key, tile;

  Worker(int words_per_code, int64_t slots)
      : words(make_aligned<uint32_t>(int64_t{kTile} * (words_per_code + 1))),
        key(make_aligned<uint16_t>(slots)),
        tile(make_aligned<uint16_t>(slots)) {
    std::fill_n(key.get(), slots, uint16_t{0xFFFF});
  }
};

}  // namespace

int worthwhile_threads(Codes query, Codes train, int threads) {
  const int64_t worth = query.rows * train.rows / kPairsAThread;
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, worth)));
}

bool sweep_tiles(const Kernel& kernel, Codes query, Codes train, int threads, Stop& stop,
                 const SweepTile& sweep, int32_t* column_index, uint16_t* column_distance) {
  const PackedBlocks packed(train, kernel.lanes);
  const Blocks& blocks = packed.blocks();
  const int words = blocks.words_per_code;
  const int bits = index_bits(words);
  const int64_t tiles = (query.rows + kTile - 1) / kTile;
  threads = static_cast<int>(
      std::min<int64_t>(worthwhile_threads(query, train, threads), tiles));

  // Tile numbers are short, so very many queries go in several rounds.
  for (int64_t round = 0; round < tiles; round += kMaxTiles) {
    std::vector<Worker> workers;
    for (int i = 0; i < threads; ++i) workers.emplace_back(words, packed.slots());
    const auto task = [&](int64_t number, int id) {
      Worker& worker = workers[static_cast<size_t>(id)];
      const int64_t first = (round + number) * kTile;
      const int rows = static_cast<int>(std::min<int64_t>(kTile, query.rows - first));
      pack_tile(query, first, rows, words, worker.words.get());
      const Tile tile{worker.words.get(), rows, static_cast<uint16_t>(number)};
      sweep(blocks, tile, {worker.key.get(), worker.tile.get()}, first);
    };
    const int64_t count = std::min<int64_t>(kMaxTiles, tiles - round);
    if (!parallel_for(count, threads, stop, task)) return false;

    for (const Worker& worker : workers) {
      for (int64_t j = 0; j < train.rows; ++j) {
        const uint16_t key = worker.key[j];
        if (key == 0xFFFF) continue;  // this worker had no tile
        const auto distance = static_cast<uint16_t>(key >> bits);
        const int64_t row = (round + worker.tile[j]) * kTile + (key & ((1 << bits) - 1));
        keep_nearer(distance, static_cast<int32_t>(row), column_distance[j], column_index[j]);
      }
    }
  }
  return true;
}

}  // namespace bindesc
