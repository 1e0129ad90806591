// Detects and describes an image behind OpenCV's interface, for test_cpp_extractor.py.
//
//   cpp_opencv MODEL IMAGE MASK SUBPIXEL OUTPUT COUNT SCALE LEVELS EDGE FIRST SCORE PATCH THRESHOLD
//
// MASK may be an empty text; LEVELS 0 is FAST. OUTPUT: x, y, size, angle (float) of every keypoint, then its code.
#include <fstream>

#include <opencv2/imgcodecs.hpp>

#include "bindesc_opencv.h"

int main(int, char** argv) try {
  const auto number = [&](int i) { return std::stoi(argv[i]); };
  const auto orb = cv::ORB::create(number(6), std::stof(argv[7]), number(8), number(9), number(10),
                                   2, static_cast<cv::ORB::ScoreType>(number(11)), number(12),
                                   number(13));
  const auto fast = cv::FastFeatureDetector::create(number(13));
  const bool subpixel = number(4) != 0;
  const cv::Ptr<cv::Feature2D> detector =
      number(8) ? bindesc::BinDesc::create(argv[1], orb, subpixel)
                : bindesc::BinDesc::create(argv[1], fast, number(6), subpixel);
  const cv::Mat image = cv::imread(argv[2]);
  cv::Mat mask;
  if (*argv[3]) mask = cv::imread(argv[3], cv::IMREAD_GRAYSCALE);
  std::vector<cv::KeyPoint> keypoints, again;
  cv::Mat codes, described;
  detector->detectAndCompute(image, mask, keypoints, codes);
  detector->detect(image, again, mask);
  detector->compute(image, again, described);
  const bool same = codes.size() == described.size() &&
                    (codes.empty() || cv::norm(codes, described, cv::NORM_HAMMING) == 0);
  const auto matches = bindesc::match(codes, described, {true, -1, -1, 0});
  if (!same || again.size() != keypoints.size() || matches.size() > keypoints.size()) return 2;
  std::ofstream out(argv[5], std::ios::binary);
  for (size_t i = 0; i < keypoints.size(); ++i) {
    const cv::KeyPoint& k = keypoints[i];
    const float values[] = {k.pt.x, k.pt.y, k.size, k.angle};
    out.write(reinterpret_cast<const char*>(values), sizeof values);
    out.write(codes.ptr<char>(static_cast<int>(i)), codes.cols);
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
