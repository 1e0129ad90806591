// Describes the keypoints of an image by the C++ library, for test_cpp_extractor.py.
//
//   cpp_extractor MODEL INPUT OUTPUT SCALE THREADS
//
// INPUT: width, height, row_bytes, count (int64), the image's rows, then x, y, size, angle (float).
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "bindesc.h"

namespace {

// As cv::KeyPoint.
struct OpenCVKeyPoint {
  struct {
    float x, y;
  } pt;
  float size, angle, response;
  int octave, class_id;
};

}  // namespace

int main(int, char** argv) try {
  std::ifstream input(argv[2], std::ios::binary);
  int64_t header[4];
  input.read(reinterpret_cast<char*>(header), sizeof header);
  const auto [width, height, row_bytes, count] = header;
  std::string pixels(static_cast<size_t>(height * row_bytes), 0);
  input.read(pixels.data(), static_cast<std::streamsize>(pixels.size()));
  std::vector<OpenCVKeyPoint> keypoints(static_cast<size_t>(count));
  for (OpenCVKeyPoint& k : keypoints) {
    float values[4];
    input.read(reinterpret_cast<char*>(values), sizeof values);
    k = {{values[0], values[1]}, values[2], values[3], 0, 0, 0};
  }
  if (!input) throw std::runtime_error("INPUT ends too early");

  const bindesc::Extractor extractor(argv[1]);
  const bindesc::GrayImage image{reinterpret_cast<const uint8_t*>(pixels.data()), width, height,
                                 row_bytes};
  const auto codes = extractor.compute(image, keypoints, std::stod(argv[4]), std::stoi(argv[5]));
  std::ofstream(argv[3], std::ios::binary)
      .write(reinterpret_cast<const char*>(codes.data()), static_cast<std::streamsize>(codes.size()));

  // To itself, every code is its own nearest neighbour but for those it shares with an earlier one.
  const bindesc::Codes all{codes.data(), count, extractor.bytes()};
  const bindesc::Matches matches = bindesc::match(all, all, {true, -1, -1, 0});
  std::printf("%zu matches\n", matches.distance.size());

  std::vector<std::array<int32_t, 2>> corners;
  for (const OpenCVKeyPoint& k : keypoints) {
    corners.push_back({static_cast<int32_t>(k.pt.x), static_cast<int32_t>(k.pt.y)});
  }
  double sum = 0;
  for (const auto& [x, y] : bindesc::subpixel_offsets(image, corners)) sum += x + 2 * y;
  std::printf("%.9f\n", sum);
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
