// Images at half, a quarter, ... of their size.
#pragma once

#include <cstdint>
#include <vector>

#include "bindesc.h"
#include "cpu_sample.h"

namespace bindesc {

class Pyramid {
 public:
  // Copies `image`, which must have pixels, and makes `levels` levels of it in all.
  Pyramid(const GrayImage& image, int levels);
  const std::vector<Image>& levels() const { return levels_; }

 private:
  std::vector<std::vector<uint8_t>> pixels_;
  std::vector<Image> levels_;
};

// The levels that an image can have: the last one is a pixel wide or high.
int most_levels(const GrayImage& image);

}  // namespace bindesc
