// Exact Hamming matching of binary codes on the CPU: the interface.
//
// Ties: the lowest index wins, everywhere. A missing neighbour has index kNoIndex and distance
// kNoDistance. Results do not depend on the instruction set or the number of threads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace bindesc {

constexpr int32_t kNoIndex = -1;
constexpr uint16_t kNoDistance = 0xFFFF;
constexpr int kMaxBytes = 64;  // the widest code
constexpr int kMaxK = 32;      // the most neighbours a query

// Row-major codes without gaps; 1 <= bytes <= kMaxBytes. Not owned.
struct Codes {
  const uint8_t* data;
  int64_t rows;
  int bytes;
};

// Where nearest() writes, for N queries and M train codes. Not owned.
struct NearestOut {
  int32_t* index;             // N x k, nearest first
  uint16_t* distance;         // N x k, bits
  int32_t* column_index;      // M, the nearest query of each train code
  uint16_t* column_distance;  // M, bits
};

// All neighbours within a radius, nearest first within a query (compressed sparse rows).
struct Neighbours {
  std::vector<int64_t> offsets;    // N + 1
  std::vector<int32_t> index;      // offsets[N]
  std::vector<uint16_t> distance;  // offsets[N], bits
};

// Which nearest neighbours match() keeps; a negative value switches a filter off. A query without
// a second neighbour passes ratio and margin.
struct Filters {
  bool mutual = true;            // each is the other's nearest
  double ratio = -1;             // first < ratio * second
  int64_t margin = -1;           // second - first >= margin, bits
  int64_t max_distance = -1;     // first <= max_distance, bits
};

struct Matches {
  std::vector<int32_t> pairs;      // K x 2: query, train; ascending query
  std::vector<uint16_t> distance;  // K, bits
};

// A request to stop, polled between tiles. `poll` runs on the constructing thread only, at most
// every 50 ms.
class Stop {
 public:
  explicit Stop(std::function<bool()> poll) : poll_(std::move(poll)) {}
  bool requested();

 private:
  std::function<bool()> poll_;
  std::atomic<bool> flag_{false};
  std::thread::id owner_ = std::this_thread::get_id();
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

struct Kernel;

// One instruction set of this build.
struct Isa {
  std::string name;
  bool usable;  // this processor has it
};

// The instruction sets in this build, the fastest first; "scalar" is last and always usable.
std::vector<Isa> isas();

// The kernel that BINDESC_ISA names, or the fastest usable one if it is unset or empty. Throws
// std::invalid_argument if that name is unknown or this processor lacks it.
const Kernel& choose_kernel();
const char* kernel_name(const Kernel& kernel);

// The k nearest train codes of each query, and the nearest query of each train code. Both sets
// have one width, and fewer than 2^31 rows; 1 <= k <= kMaxK; threads >= 1. Returns false, with
// the output unfinished, if stopped.
bool nearest(const Kernel& kernel, Codes query, Codes train, int k, int threads, Stop& stop,
             NearestOut out);

// All train codes at most max_distance bits (>= 0) from each query. Returns false if stopped.
bool radius(const Kernel& kernel, Codes query, Codes train, int64_t max_distance, int threads,
            Stop& stop, Neighbours& out);

// The nearest neighbours that pass the filters. Returns false if stopped.
bool match(const Kernel& kernel, Codes query, Codes train, const Filters& filters, int threads,
           Stop& stop, Matches& out);

// match() of many pairs; the pairs are shared out among the threads.
bool match_pairs(const Kernel& kernel, const std::vector<std::pair<Codes, Codes>>& pairs,
                 const Filters& filters, int threads, Stop& stop, std::vector<Matches>& out);

}  // namespace bindesc
