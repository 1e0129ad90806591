// Images that go on beyond their border.
#pragma once

#include <cstdint>

namespace bindesc {

// The pixel of a line of `size` pixels that mirroring puts at `i`; the outermost is not repeated.
inline int64_t mirrored(int64_t i, int64_t size) {
  if (i >= 0 && i < size) return i;
  if (size == 1) return 0;
  const int64_t period = 2 * size - 2;
  i = (i % period + period) % period;
  return i < size ? i : period - i;
}

}  // namespace bindesc
