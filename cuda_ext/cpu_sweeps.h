// Shares the tiles of queries out among threads and merges the columns.
#pragma once

#include <functional>

#include "cpu_kernel.h"
#include "hamming.h"

namespace bindesc {

// Sweeps one tile over all blocks; its first query is `first`. Called from several threads.
using SweepTile =
    std::function<void(const Blocks&, const Tile&, const Columns&, int64_t first)>;

// How many of the threads pay for themselves, 1 at least.
int worthwhile_threads(Codes query, Codes train, int threads);

// A train code's query becomes another one that is nearer, or as near and earlier.
inline void keep_nearer(uint16_t distance, int32_t query, uint16_t& best_distance,
                        int32_t& best_query) {
  if (distance < best_distance || (distance == best_distance && query < best_query)) {
    best_distance = distance;
    best_query = query;
  }
}

// Calls `sweep` for every tile, then writes the best query of each train code, which both arrays
// must hold as missing before. Both sets must have rows. Returns false if stopped.
bool sweep_tiles(const Kernel& kernel, Codes query, Codes train, int threads, Stop& stop,
                 const SweepTile& sweep, int32_t* column_index, uint16_t* column_distance);

}  // namespace bindesc
