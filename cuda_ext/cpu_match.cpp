// Nearest neighbours that pass the filters, for one pair of images and for many.
#include <utility>

#include "cpu_parallel.h"
#include "hamming.h"

namespace bindesc {

bool match(const Kernel& kernel, Codes query, Codes train, const Filters& filters, int threads,
           Stop& stop, Matches& out) {
  const auto n = static_cast<size_t>(query.rows), m = static_cast<size_t>(train.rows);
  std::vector<int32_t> index(2 * n), column_index(m);
  std::vector<uint16_t> distance(2 * n), column_distance(m);
  if (!nearest(kernel, query, train, 2, threads, stop,
               {index.data(), distance.data(), column_index.data(), column_distance.data()})) {
    return false;
  }
  out.pairs.clear();
  out.distance.clear();
  for (size_t i = 0; i < n; ++i) {
    const int32_t best = index[2 * i];
    const int first = distance[2 * i], second = distance[2 * i + 1];
    const bool alone = index[2 * i + 1] == kNoIndex;
    if (best == kNoIndex) continue;
    if (filters.mutual && column_index[static_cast<size_t>(best)] != static_cast<int32_t>(i)) {
      continue;
    }
    if (filters.ratio >= 0 && !alone && !(first < filters.ratio * second)) continue;
    if (filters.margin >= 0 && !alone && second - first < filters.margin) continue;
    if (filters.max_distance >= 0 && first > filters.max_distance) continue;
    out.pairs.push_back(static_cast<int32_t>(i));
    out.pairs.push_back(best);
    out.distance.push_back(distance[2 * i]);
  }
  return true;
}

bool match_pairs(const Kernel& kernel, const std::vector<std::pair<Codes, Codes>>& pairs,
                 const Filters& filters, int threads, Stop& stop, std::vector<Matches>& out) {
  out.assign(pairs.size(), {});
  const auto count = static_cast<int64_t>(pairs.size());
  // Few pairs keep the threads busy better one after the other.
  const bool share = count >= 2 * threads;
  std::atomic<bool> finished{true};
  const auto task = [&](int64_t i, int) {
    const auto& [query, train] = pairs[static_cast<size_t>(i)];
    if (!match(kernel, query, train, filters, share ? 1 : threads, stop,
               out[static_cast<size_t>(i)])) {
      finished = false;
    }
  };
  return parallel_for(count, share ? threads : 1, stop, task) && finished;
}

}  // namespace bindesc
