// Turns and stretches log-polar patches as an orientation network says: bindesc/orientation.py.
#pragma once

#include <cstdint>

#include "cpu_network.h"

namespace bindesc {

constexpr int kAdaptationSteps = 3;  // turn, axis and strength

// Adapts patches [count][kRings][kDirections] into `out`, and says how: `steps`
// [count][kAdaptationSteps]. Those that are `upright` [count] are stretched only. `network` sees a
// patch at half its side and gives x, y, z, w first. False if stopped.
bool orient(const Kernel& kernel, const Network& network, const uint8_t* patches,
            const bool* upright, int64_t count, int threads, Stop& stop, uint8_t* out,
            int32_t* steps);

}  // namespace bindesc
