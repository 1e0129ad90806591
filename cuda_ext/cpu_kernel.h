// What a kernel (one instruction set) offers, and the layouts it reads and writes.
//
// Plain data only: the kernels are compiled for processors that may not be there, so they must not
// instantiate inline functions that other files could end up sharing.
#pragma once

#include <cstdint>

#include "cpu_convolve.h"
#include "cpu_sample_grid.h"
#include "cpu_table.h"

namespace bindesc {

constexpr int kTile = 64;         // queries swept together
constexpr int kGroup = 16;        // 16-bit words whose distance is counted together
constexpr int kMaxTiles = 65536;  // tile numbers are 16 bits

// A key is distance << index_bits | index: its order is the order of results, lowest index first
// among ties. 512 bits need 10 bits of distance, 256 bits need 9.
constexpr int index_bits(int words) { return words > kGroup ? 6 : 7; }

// Train codes, bit-sliced: block b holds `lanes` codes as words x lanes uint16, each code in the
// basis of cpu_pack.h. Lanes from `tail` on are unused in the last block.
struct Blocks {
  const uint16_t* words;
  int64_t count;
  int words_per_code;  // 1, 2, 4, 8, 16 or 32
  int tail;            // 1 to lanes
};

// Up to kTile queries in the basis of cpu_pack.h. Each has words_per_code + 1 words: its own, then
// its row in the tile; each word stands twice in 32 bits, so that one 32-bit load broadcasts it.
struct Tile {
  const uint32_t* words;
  int rows;
  uint16_t number;  // tiles of one sweep have ascending numbers
};

// The best query so far of each train code (count * lanes): its key, with the row in the tile as
// index, and its tile. Start from 0xFFFF keys.
struct Columns {
  uint16_t* key;
  uint16_t* tile;
};

// The two best train codes of a query as distance << 32 | index; start from kNone.
struct Best {
  uint64_t first;
  uint64_t second;
};
constexpr uint64_t kNone = ~uint64_t{0};

// Where a kernel reports codes nearer than a limit.
struct Hits {
  uint16_t* limit;  // one a row; read anew for each block
  // `lanes` has a bit for each of the codes first, first + 1, ... with distance < limit[row].
  void (*report)(void* context, int row, int64_t first, const uint16_t* distance, uint32_t lanes);
  void* context;
};

struct Kernel {
  const char* name;
  int lanes;  // codes a block, at most 32
  bool (*usable)();
  // Both sweep a tile over all blocks and update the columns.
  void (*top2)(const Blocks&, const Tile&, const Columns&, Best* rows);
  void (*within)(const Blocks&, const Tile&, const Columns&, const Hits&);
  Normalise normalise;
  Convolve convolve;
  Sample sample;
  SampleLogPolar sample_log_polar;
  const TableKernel* table;  // for 256 bits; null where the sweep is faster
};

}  // namespace bindesc
