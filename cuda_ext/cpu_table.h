// The two nearest of many 256-bit codes, from tables of partial distances: interface and layouts.
//
// 512 train codes make a block, a register holds one bit of all of them, and a distance is a number
// of nine such registers, one a binary digit. The bits of a query are constants here, so three bits
// of it choose one of eight precomputed pairs of registers: the two digits of how many of the three
// differ. What is left for a query and a block is to add 85 two-digit numbers by carry-save adders:
// two instructions an adder, 0.7 a pair of codes in all, where counting bits takes 1.3. The tables
// of a block, 86 KB, serve all queries of a pass.
#pragma once

#include <cstdint>

namespace bindesc {

constexpr int kTableBytes = 32;       // of a code
constexpr int kTableBlock = 512;      // train codes
constexpr int kTableWords = kTableBlock / 64;
constexpr int kTableBits = 8 * kTableBytes;
constexpr int kTableDigits = 9;       // of a distance, 0 to 256
constexpr int kTableTriples = 85;     // and one bit is left over
constexpr int kTableStride = 1024;    // bytes of a triple: 8 patterns x 2 digits x 64
constexpr int kTableSize = kTableTriples * kTableStride + 2 * 64;
constexpr int kTablePlaces = 96;      // uint16 a query: 86 of them used

// What is known of a query, and the second distance in digits, each 0 or ~0 in 32 bits.
struct alignas(64) TableRow {
  uint32_t limit[kTableDigits];
  uint64_t first, second;  // distance << 32 | index
};

// The nearest query so far of each code of a block; start from ~0 digits and kNoIndex.
struct alignas(64) TableColumns {
  uint64_t digits[kTableDigits][kTableWords];
  int32_t index[kTableBlock];
};

// One block and at most 512 queries that pass it. Queries are numbered from `first_query` and train codes
// from `first_train`. Passes of one block go in the order of their queries, and those of one query in
// the order of their blocks, so a tie never replaces a neighbour.
struct TablePass {
  const uint8_t* table;
  const uint16_t* places;
  int rows;
  int32_t first_query;
  int64_t first_train;
  TableRow* row;
  TableColumns* columns;
};

struct TableKernel {
  // 512 codes to planes[bit][word]: the bit of all codes.
  void (*slice)(const uint8_t* codes, uint64_t* planes);
  // The table of a block: kTableSize bytes.
  void (*build)(const uint64_t* planes, uint8_t* table);
  // Where in a table a query looks: kTablePlaces a query.
  void (*place)(const uint8_t* queries, int rows, uint16_t* places);
  void (*set_limit)(TableRow& row);  // from its second neighbour
  void (*pass)(const TablePass& pass);
  void (*distances)(const TableColumns& columns, uint16_t* out);  // from digits, kTableBlock of them
};

}  // namespace bindesc
