// Detects and describes an image behind OpenCV's interface, for test_cpp_extractor.py.
//
//   cpp_opencv MODEL IMAGE COUNT SUBPIXEL OUTPUT
//
// OUTPUT: x, y, size, angle (float) of every keypoint, then its code.
#include <fstream>

#include <opencv2/imgcodecs.hpp>

#include "bindesc_opencv.h"

int main(int, char** argv) {
  const cv::Ptr<cv::Feature2D> detector = bindesc::BinDesc::create(
      argv[1], cv::ORB::create(std::stoi(argv[3])), std::stoi(argv[4]) != 0);
  const cv::Mat image = cv::imread(argv[2]);
  std::vector<cv::KeyPoint> keypoints, again;
  cv::Mat codes, described;
  detector->detectAndCompute(image, cv::noArray(), keypoints, codes);
  detector->detect(image, again);
  detector->compute(image, again, described);
  const bool same = codes.size() == described.size() &&
                    (codes.empty() || cv::norm(codes, described, cv::NORM_HAMMING) == 0);
  const auto matches = bindesc::match(codes, described, {true, -1, -1, 0});
  if (!same || again.size() != keypoints.size() || matches.size() > keypoints.size()) return 1;
  std::ofstream out(argv[5], std::ios::binary);
  for (size_t i = 0; i < keypoints.size(); ++i) {
    const cv::KeyPoint& k = keypoints[i];
    const float values[] = {k.pt.x, k.pt.y, k.size, k.angle};
    out.write(reinterpret_cast<const char*>(values), sizeof values);
    out.write(codes.ptr<char>(static_cast<int>(i)), codes.cols);
  }
}
