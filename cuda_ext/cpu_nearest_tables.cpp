#include "cpu_nearest_tables.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu_pack.h"
#include "cpu_parallel.h"
#include "cpu_sweeps.h"
#include "cpu_table.h"

namespace bindesc {
namespace {

constexpr int kPass = 512;  // queries of a pass
// The sweep of cpu_sweep.h finds the first two neighbours among at least so many train codes, and all
// that do not fill a block. Then few codes are nearer: each costs as much as a hundred pairs.
constexpr int64_t kLead = 256;

// The first train codes, and a worker's state of the sweep over them.
class Lead {
 public:
  Lead(const Kernel& kernel, const PackedBlocks& packed, int64_t codes)
      : distance(static_cast<size_t>(codes), kNoDistance),
        index(static_cast<size_t>(codes), kNoIndex),
        kernel_(kernel),
        blocks_(packed.blocks()),
        slots_(packed.slots()),
        words_(make_aligned<uint32_t>(int64_t{kTile} * (blocks_.words_per_code + 1))),
        key_(make_aligned<uint16_t>(slots_)),
        tile_(make_aligned<uint16_t>(slots_)) {}

  // Finds the first neighbours of at most kPass queries and the columns' nearest so far.
  void pass(Codes query, int64_t first, int rows, TableRow* row) {
    std::fill_n(key_.get(), slots_, uint16_t{0xFFFF});
    for (int start = 0; start < rows; start += kTile) {
      const int count = std::min(kTile, rows - start);
      pack_tile(query, first + start, count, blocks_.words_per_code, words_.get());
      Best best[kTile];
      std::fill_n(best, kTile, Best{kNone, kNone});
      const Tile tile{words_.get(), count, static_cast<uint16_t>(start / kTile)};
      kernel_.top2(blocks_, tile, {key_.get(), tile_.get()}, best);
      for (int i = 0; i < count; ++i) {
        row[start + i].first = best[i].first;
        row[start + i].second = best[i].second;
      }
    }
    constexpr int kBits = index_bits(kTableBytes / 2);
    for (size_t j = 0; j < distance.size(); ++j) {
      const auto found = static_cast<uint16_t>(key_[j] >> kBits);
      if (found >= distance[j]) continue;
      distance[j] = found;
      const int in_tile = key_[j] & ((1 << kBits) - 1);
      index[j] = static_cast<int32_t>(first + int64_t{tile_[j]} * kTile + in_tile);
    }
  }

  std::vector<uint16_t> distance;
  std::vector<int32_t> index;

 private:
  const Kernel& kernel_;
  const Blocks& blocks_;
  int64_t slots_;
  Aligned<uint32_t> words_;
  Aligned<uint16_t> key_, tile_;
};

struct Worker {
  Lead lead;
  Aligned<uint8_t> table = make_aligned<uint8_t>(kTableSize);
  Aligned<uint16_t> places = make_aligned<uint16_t>(int64_t{kPass} * kTablePlaces);
  Aligned<TableRow> rows = make_aligned<TableRow>(kPass);
  Aligned<TableColumns> columns;

  Worker(const Kernel& kernel, const PackedBlocks& packed, int64_t codes, int64_t blocks)
      : lead(kernel, packed, codes), columns(make_aligned<TableColumns>(blocks)) {
    for (int64_t b = 0; b < blocks; ++b) {
      std::memset(columns[b].digits, 0xFF, sizeof columns[b].digits);
      std::fill_n(columns[b].index, kTableBlock, kNoIndex);
    }
  }
};

void merge_columns(const uint16_t* distance, const int32_t* index, int64_t first, int64_t count,
                 NearestOut out) {
  for (int64_t j = 0; j < count; ++j) {
    if (index[j] == kNoIndex) continue;  // this worker had no queries
    keep_nearer(distance[j], index[j], out.column_distance[first + j], out.column_index[first + j]);
  }
}

}  // namespace

bool tables_pay(const Kernel& kernel, Codes query, Codes train, int k) {
  return kernel.table && k <= 2 && train.bytes == kTableBytes && query.rows >= kTile &&
         train.rows >= kLead + kTableBlock;
}

bool nearest_by_tables(const Kernel& kernel, Codes query, Codes train, int k, int threads,
                       Stop& stop, NearestOut out) {
  const TableKernel& table = *kernel.table;
  const int64_t blocks = (train.rows - kLead) / kTableBlock;
  const int64_t lead = train.rows - blocks * kTableBlock;
  const PackedBlocks packed({train.data, lead, train.bytes}, kernel.lanes);
  threads = worthwhile_threads(query, train, threads);

  constexpr int64_t kPlanes = int64_t{kTableBits} * kTableWords;
  const auto planes = make_aligned<uint64_t>(blocks * kPlanes);
  const auto slice = [&](int64_t b, int) {
    table.slice(train.data + (lead + b * kTableBlock) * kTableBytes, planes.get() + b * kPlanes);
  };
  if (!parallel_for(blocks, threads, stop, slice)) return false;

  // Passes of equal length, as many as every thread can have alike.
  const int64_t rounds = (query.rows + int64_t{threads} * kPass - 1) / (int64_t{threads} * kPass);
  const int64_t each = (query.rows + rounds * threads - 1) / (rounds * threads);
  std::vector<Worker> workers;
  for (int i = 0; i < threads; ++i) workers.emplace_back(kernel, packed, lead, blocks);
  const auto pass = [&](int64_t number, int id) {
    Worker& worker = workers[static_cast<size_t>(id)];
    const int64_t first = number * each;
    const int rows = static_cast<int>(std::min(each, query.rows - first));
    TableRow* row = worker.rows.get();
    worker.lead.pass(query, first, rows, row);
    table.place(query.data + first * kTableBytes, rows, worker.places.get());
    for (int i = 0; i < rows; ++i) table.set_limit(row[i]);
    for (int64_t b = 0; b < blocks; ++b) {
      if (stop.requested()) return;
      table.build(planes.get() + b * kPlanes, worker.table.get());
      table.pass({worker.table.get(), worker.places.get(), rows, static_cast<int32_t>(first),
                  lead + b * kTableBlock, row, &worker.columns[b]});
    }
    for (int i = 0; i < rows; ++i) {
      const uint64_t found[2] = {row[i].first, row[i].second};
      for (int rank = 0; rank < k; ++rank) {
        const int64_t at = (first + i) * k + rank;
        out.index[at] = static_cast<int32_t>(found[rank] & 0xFFFFFFFF);
        out.distance[at] = static_cast<uint16_t>(found[rank] >> 32);
      }
    }
  };
  const int64_t passes = (query.rows + each - 1) / each;
  if (!parallel_for(passes, threads, stop, pass) || stop.requested()) return false;

  for (const Worker& worker : workers) {
    merge_columns(worker.lead.distance.data(), worker.lead.index.data(), 0, lead, out);
    for (int64_t b = 0; b < blocks; ++b) {
      uint16_t distance[kTableBlock];
      table.distances(worker.columns[b], distance);
      merge_columns(distance, worker.columns[b].index, lead + b * kTableBlock, kTableBlock, out);
    }
  }
  return true;
}

}  // namespace bindesc
