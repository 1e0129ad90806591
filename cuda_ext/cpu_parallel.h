// Threads for one call: started when it has enough work, joined before it returns.
//
// Nothing outlives a call, so there is no state to share between callers, to shut down, or to lose
// in a fork. Starting a thread takes about as long as waking a parked one, and nothing spins.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "hamming.h"

namespace bindesc {

// Runs task(i, worker) for every i in [0, count), with 0 <= worker < threads; the caller is worker
// 0 and each worker's i ascend. Returns false if stopped: some i were then left out. Rethrows what
// a task throws.
bool parallel_for(int64_t count, int threads, Stop& stop,
                  const std::function<void(int64_t, int)>& task);

// Runs work(worker, first, some) for all groups [first, first + some) of [0, count), `together` at
// most in each. A thread's `Worker` is what make() gives when it begins.
template <class Worker, class Make, class Work>
bool parallel_groups(int64_t count, int together, int threads, Stop& stop, const Make& make,
                     const Work& work) {
  const int64_t groups = (count + together - 1) / together;
  threads = static_cast<int>(std::clamp<int64_t>(groups, 1, threads));
  std::vector<std::optional<Worker>> workers(static_cast<size_t>(threads));
  return parallel_for(groups, threads, stop, [&](int64_t group, int index) {
    auto& mine = workers[static_cast<size_t>(index)];
    if (!mine) mine.emplace(make());
    const int64_t first = group * together;
    work(*mine, first, static_cast<int>(std::min<int64_t>(together, count - first)));
  });
}

}  // namespace bindesc
