// Codes into the layouts of cpu_kernel.h.
//
// The basis: the 16-bit words x[0], x[1], ... of a code are taken in groups of 16 (or all of them,
// if fewer) and become p[i] = x[0] ^ ... ^ x[i]; the last word of an even group stays x[i]. The
// change is linear, so p(a ^ b) = p(a) ^ p(b): two codes are compared in this basis.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "cpu_kernel.h"
#include "hamming.h"

namespace bindesc {

struct FreeAligned {
  void operator()(void* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

// An uninitialised array that starts on a cache line.
template <class T>
using Aligned = std::unique_ptr<T[], FreeAligned>;

template <class T>
Aligned<T> make_aligned(int64_t size) {
  return Aligned<T>(new (std::align_val_t{64}) T[static_cast<size_t>(size)]);
}

// The words a code of that many bytes is padded to with zeros: 1, 2, 4, 8, 16 or 32.
int padded_words(int bytes);

// Train codes in blocks, and their memory.
class PackedBlocks {
 public:
  PackedBlocks(Codes train, int lanes);
  const Blocks& blocks() const { return blocks_; }
  int64_t slots() const { return blocks_.count * lanes_; }  // train codes with padding

 private:
  int lanes_;
  Aligned<uint16_t> words_;
  Blocks blocks_;
};

// Writes queries [first, first + rows) in the layout of Tile::words.
void pack_tile(Codes query, int64_t first, int rows, int words, uint32_t* out);

}  // namespace bindesc
