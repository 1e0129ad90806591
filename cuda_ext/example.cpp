// Matches two photos and writes a picture of it:
//
//   bindesc export compact --cpp compact.bindesc
//   cmake -S cuda_ext -B build/cpp -DBINDESC_EXAMPLE=ON && cmake --build build/cpp
//   build/cpp/example compact.bindesc a.jpg b.jpg matches.png
#include <cstdio>
#include <exception>
#include <stdexcept>

#include <opencv2/calib3d.hpp>
#include <opencv2/imgcodecs.hpp>

#include "bindesc_opencv.h"

int main(int count, char** arguments) try {
  if (count != 5) {
    std::fprintf(stderr, "example MODEL IMAGE IMAGE PICTURE\n");
    return 2;
  }
  const auto detector = bindesc::BinDesc::create(arguments[1], cv::ORB::create(1000));
  cv::Mat image[2], codes[2];
  std::vector<cv::KeyPoint> keypoints[2];
  for (int i = 0; i < 2; ++i) {
    image[i] = cv::imread(arguments[2 + i]);
    if (image[i].empty()) throw std::runtime_error(arguments[2 + i] + std::string(": no image"));
    detector->detectAndCompute(image[i], cv::noArray(), keypoints[i], codes[i]);
    std::printf("%s: %zu keypoints\n", arguments[2 + i], keypoints[i].size());
  }
  const auto matches = bindesc::match(codes[0], codes[1]);  // mutual nearest neighbours
  std::printf("%zu matches\n", matches.size());
  if (matches.size() < 4) {
    std::fprintf(stderr, "too few for a homography\n");
    return 3;
  }
  std::vector<cv::Point2f> points[2];
  for (const cv::DMatch& m : matches) {
    points[0].push_back(keypoints[0][static_cast<size_t>(m.queryIdx)].pt);
    points[1].push_back(keypoints[1][static_cast<size_t>(m.trainIdx)].pt);
  }
  std::vector<char> inliers;
  cv::findHomography(points[0], points[1], inliers, cv::USAC_MAGSAC, 3.0);
  std::printf("%td inliers\n", std::count(inliers.begin(), inliers.end(), 1));

  cv::Mat picture;
  cv::drawMatches(image[0], keypoints[0], image[1], keypoints[1], matches, picture,
                  cv::Scalar(0, 200, 0), cv::Scalar::all(-1), inliers,
                  cv::DrawMatchesFlags::NOT_DRAW_SINGLE_POINTS);
  cv::imwrite(arguments[4], picture);
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
