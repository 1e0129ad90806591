// Shares the tiles of queries out among threads and merges the columns.
#pragma once

#include <functional>

#include "cpu_kernel.h"
#include "hamming.h"

namespace bindesc {

// Sweeps one tile over all blocks; its first query is `first`. Called from several threads.
using SweepTile =
    std::function<void(const Blocks&, const Tile&, const Columns&, int64_t first)>;

// Calls `sweep` for every tile, then writes the best query of each train code, which both arrays
// must hold as missing before. Both sets must have rows. Returns false if stopped.
bool sweep_tiles(const Kernel& kernel, Codes query, Codes train, int threads, Stop& stop,
                 const SweepTile& sweep, int32_t* column_index, uint16_t* column_distance);

}  // namespace bindesc
