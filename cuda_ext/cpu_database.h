// Train codes that are packed once and searched many times.
//
// nearest() of hamming.h packs its train codes on every call and keeps the best query of each of
// them. That is right for two images; a few queries against millions of codes need neither.
#pragma once

#include "cpu_pack.h"
#include "hamming.h"

namespace bindesc {

constexpr int kMaxDatabaseK = 1024;

// Immutable, so any number of threads may search it at once.
class Database {
 public:
  Database(const Kernel& kernel, Codes codes);
  int bytes() const { return bytes_; }

  // The k nearest codes of each query, N x k, nearest first; 1 <= k <= kMaxDatabaseK. Returns
  // false, with the output unfinished, if stopped.
  bool nearest(Codes query, int k, int threads, Stop& stop, int32_t* index,
               uint16_t* distance) const;

 private:
  const Kernel& kernel_;
  int64_t rows_;
  int bytes_;
  PackedBlocks packed_;
};

}  // namespace bindesc
