// Threads for one call: started when it has enough work, joined before it returns.
//
// Nothing outlives a call, so there is no state to share between callers, to shut down, or to lose
// in a fork. Starting a thread takes about as long as waking a parked one, and nothing spins.
#pragma once

#include <cstdint>
#include <functional>

#include "hamming.h"

namespace bindesc {

// Runs task(i, worker) for every i in [0, count), with 0 <= worker < threads; the caller is worker
// 0 and each worker's i ascend. Returns false if stopped: some i were then left out. Rethrows what
// a task throws.
bool parallel_for(int64_t count, int threads, Stop& stop,
                  const std::function<void(int64_t, int)>& task);

}  // namespace bindesc
