// Adaptive non-maximal suppression (Brown, Szeliski and Winder 2005).
#pragma once

#include <cstdint>

namespace bindesc {

// Writes how far each of the points `xy` [count][2], all finite, is from the nearest before it; the
// first has infinity.
void suppression_radius(const float* xy, int64_t count, double* out);

}  // namespace bindesc
