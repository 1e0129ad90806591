// Keypoints to codes in one pass.
//
// Each thread cuts a few patches, adapts them, runs the network and packs the bits before it goes on,
// so that patches never leave its cache: whole arrays of them, new for each image, would cost more
// than the cutting itself, as the system must find and clear their memory.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu_log_polar.h"
#include "cpu_network.h"

namespace bindesc {

// The networks of a model. `orientation` may be null.
struct Networks {
  const Network* codes;
  const Network* orientation;
};

// Writes the codes [count][outputs / 8] of log-polar patches at `places` of `levels`, see
// cpu_log_polar.h, adapted first, see cpu_orient.h; those that are `upright` [count] are stretched
// only. False if stopped.
bool describe_log_polar(const Kernel& kernel, const Networks& networks,
                        const std::vector<Image>& levels, const LogPolarPlaces& places,
                        const bool* upright, int threads, Stop& stop, uint8_t* codes);

}  // namespace bindesc
