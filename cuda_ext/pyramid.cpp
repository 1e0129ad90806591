#include "pyramid.h"

#include <algorithm>
#include <utility>

#include "cpu_mirror.h"

namespace bindesc {
namespace {

constexpr int kReach = 2;  // of the blur, on either side

// Blurs by 1, 4, 6, 4, 1 in both directions and takes every second pixel, as cv::pyrDown does.
std::vector<uint8_t> halve(const Image& image, int64_t width, int64_t height) {
  const auto weighted = [](auto at) { return at(-2) + at(2) + 4 * (at(-1) + at(1)) + 6 * at(0); };
  std::vector<int> padded(static_cast<size_t>(image.width + 2 * kReach));
  std::vector<uint8_t> out(static_cast<size_t>(width * height));
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* rows[2 * kReach + 1];
    for (int i = -kReach; i <= kReach; ++i) {
      rows[i + kReach] = image.data + mirrored(2 * y + i, image.height) * image.width;
    }
    int* column = padded.data() + kReach;
    for (int64_t x = 0; x < image.width; ++x) {
      column[x] = weighted([&](int i) { return int{rows[i + kReach][x]}; });
    }
    for (int64_t x = 1; x <= kReach; ++x) {
      column[-x] = column[mirrored(-x, image.width)];
      column[image.width - 1 + x] = column[mirrored(image.width - 1 + x, image.width)];
    }
    uint8_t* to = out.data() + y * width;
    for (int64_t x = 0; x < width; ++x) {
      to[x] = static_cast<uint8_t>((weighted([&](int i) { return column[2 * x + i]; }) + 128) >> 8);
    }
  }
  return out;
}

}  // namespace

Pyramid::Pyramid(const GrayImage& image, int levels) {
  std::vector<uint8_t> whole;
  whole.reserve(static_cast<size_t>(image.width * image.height));
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* row = image.data + y * image.row_bytes;
    whole.insert(whole.end(), row, row + image.width);
  }
  pixels_.push_back(std::move(whole));
  levels_.push_back({pixels_.back().data(), image.width, image.height});
  while (static_cast<int>(levels_.size()) < levels) {
    const Image& last = levels_.back();
    const int64_t width = (last.width + 1) / 2, height = (last.height + 1) / 2;
    pixels_.push_back(halve(last, width, height));
    levels_.push_back({pixels_.back().data(), width, height});
  }
}

int most_levels(const GrayImage& image) {
  int levels = 1;
  for (int64_t side = std::min(image.width, image.height); side > 1; side /= 2) ++levels;
  return levels;
}

}  // namespace bindesc
