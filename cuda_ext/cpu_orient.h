// Turns log-polar patches as an orientation network says: bindesc/orientation.py.
#pragma once

#include <cstdint>

#include "cpu_network.h"

namespace bindesc {

constexpr int kTurnSteps = 256;  // of all round

// Turns [count][kRings][kDirections] patches into `out`, and says how far, clockwise: `steps`
// [count]. Those that are `upright` [count] stay as they are. `network` sees a patch at half its side
// and gives the x and y of a direction first. False if stopped.
bool orient(const Kernel& kernel, const Network& network, const uint8_t* patches,
            const bool* upright, int64_t count, int threads, Stop& stop, uint8_t* out,
            int32_t* steps);

}  // namespace bindesc
