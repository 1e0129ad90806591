// Turns and stretches log-polar patches as an orientation network says: bindesc/orientation.py.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu_network.h"

namespace bindesc {

constexpr int kAdaptationSteps = 3;  // turn, axis and strength

// Adapts patches on one thread. The network, to which it refers, sees a patch at half its side and
// gives x, y, z, w first.
class Orienter {
 public:
  explicit Orienter(const Network& network);

  // Adapts patches [count][kRings][kDirections], Network::kTogether at most, into `out`, and says
  // how: `steps` [count][kAdaptationSteps]. Those that are `upright` [count] are stretched only.
  void run(const Kernel& kernel, const uint8_t* patches, const bool* upright, int count,
           uint8_t* out, int32_t* steps);

 private:
  int outputs_;
  Network::Worker worker_;
  std::vector<uint8_t> halves_;
};

// The same of any number of patches, on several threads. False if stopped.
bool orient(const Kernel& kernel, const Network& network, const uint8_t* patches,
            const bool* upright, int64_t count, int threads, Stop& stop, uint8_t* out,
            int32_t* steps);

}  // namespace bindesc
