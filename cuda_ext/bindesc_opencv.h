// bindesc behind OpenCV's interface: what takes the place of cv::ORB in a C++ program.
//
//   auto detector = bindesc::BinDesc::create("compact.bindesc", cv::ORB::create(1000));
//   detector->detectAndCompute(image, cv::noArray(), keypoints, descriptors);
//
// Keypoints and codes are those of Python's `bindesc.create`.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <opencv2/core.hpp>
#include <opencv2/features2d.hpp>
#include <opencv2/imgproc.hpp>

#include "bindesc.h"

namespace bindesc {

// `mat` is CV_8UC1 and must outlive the result.
inline GrayImage to_image(const cv::Mat& mat) {
  CV_Assert(mat.type() == CV_8UC1);
  return {mat.data, mat.cols, mat.rows, static_cast<int64_t>(mat.step)};
}

// Detects by cv::ORB, places its keypoints between the pixels, and describes them.
class BinDesc : public cv::Feature2D {
 public:
  // `model`: see Extractor. `subpixel` false leaves keypoints on whole pixels of their level.
  static cv::Ptr<BinDesc> create(const std::string& model,
                                 cv::Ptr<cv::ORB> orb = cv::ORB::create(), bool subpixel = true) {
    return cv::makePtr<BinDesc>(model, std::move(orb), subpixel);
  }
  BinDesc(const std::string& model, cv::Ptr<cv::ORB> orb, bool subpixel)
      : extractor_(model), orb_(std::move(orb)), subpixel_(subpixel) {}

  // As cv::ORB: `image` is CV_8UC1, CV_8UC3 (BGR) or CV_8UC4 (BGRA). But given keypoints are all
  // described, in their order.
  void detectAndCompute(cv::InputArray image, cv::InputArray mask,
                        std::vector<cv::KeyPoint>& keypoints, cv::OutputArray descriptors,
                        bool useProvidedKeypoints = false) override {
    const cv::Mat gray = to_gray(image.getMat());
    if (!useProvidedKeypoints) {
      keypoints.clear();
      // cv::ORB fails on the smallest images.
      if (std::min(gray.rows, gray.cols) >= kLeastSide) orb_->detect(gray, keypoints, mask);
      place(gray, keypoints);
    }
    if (!descriptors.needed()) return;
    if (keypoints.empty()) return descriptors.release();
    const int count = static_cast<int>(keypoints.size());
    auto codes = extractor_.compute(to_image(gray), keypoints, kOrbScale, cv::getNumThreads());
    cv::Mat(count, extractor_.bytes(), CV_8U, codes.data()).copyTo(descriptors);
  }

  int descriptorSize() const override { return extractor_.bytes(); }
  int descriptorType() const override { return CV_8U; }
  int defaultNorm() const override { return cv::NORM_HAMMING; }
  cv::String getDefaultName() const override { return "Feature2D.BinDesc"; }

 private:
  static cv::Mat to_gray(const cv::Mat& image) {
    if (image.empty() || image.type() == CV_8UC1) return image;
    CV_Assert(image.type() == CV_8UC3 || image.type() == CV_8UC4);
    cv::Mat gray;
    cv::cvtColor(image, gray, image.channels() == 3 ? cv::COLOR_BGR2GRAY : cv::COLOR_BGRA2GRAY);
    return gray;
  }

  // Moves keypoints from where cv::ORB says that they are to where they are, see bindesc/orb.py:
  // it multiplies whole pixels of a level by a nominal scale, which is up to 3 pixels off.
  void place(const cv::Mat& gray, std::vector<cv::KeyPoint>& keypoints) const {
    int octaves = 0;
    for (const cv::KeyPoint& k : keypoints) octaves = std::max(octaves, k.octave + 1);
    cv::Mat level = gray;
    for (int octave = 0; octave < octaves; ++octave) {
      const int first = orb_->getFirstLevel();
      const auto scale = static_cast<float>(std::pow(orb_->getScaleFactor(), octave - first));
      const float inverse = 1 / scale;
      const cv::Size size(cvRound(gray.cols * inverse), cvRound(gray.rows * inverse));
      if (octave <= first) level = gray;
      if (octave != first) {
        cv::Mat resized;
        cv::resize(level, resized, size, 0, 0, cv::INTER_LINEAR_EXACT);
        level = resized;
      }
      std::vector<cv::KeyPoint*> some;
      std::vector<std::array<int32_t, 2>> pixels;
      for (cv::KeyPoint& k : keypoints) {
        if (k.octave != octave) continue;
        some.push_back(&k);
        pixels.push_back({cvRound(k.pt.x / scale), cvRound(k.pt.y / scale)});
      }
      std::vector<std::array<double, 2>> offsets(pixels.size());
      if (subpixel_) offsets = subpixel_offsets(to_image(level), pixels);
      for (size_t i = 0; i < some.size(); ++i) {
        const auto place = [&](size_t axis, int whole, int of_level) {
          const double at = pixels[i][axis] + offsets[i][axis] + 0.5;
          return static_cast<float>(at * whole / of_level - 0.5);
        };
        some[i]->pt = {place(0, gray.cols, level.cols), place(1, gray.rows, level.rows)};
      }
    }
  }

  static constexpr int kLeastSide = 7;  // pixels, of the ring of FAST

  Extractor extractor_;
  cv::Ptr<cv::ORB> orb_;
  bool subpixel_;
};

// The nearest neighbours that pass the filters, of CV_8U rows; an empty matrix has none.
inline std::vector<cv::DMatch> match(const cv::Mat& query, const cv::Mat& train,
                                     const Filters& filters = {}) {
  std::vector<cv::DMatch> out;
  if (query.empty() || train.empty()) return out;
  CV_Assert(query.type() == CV_8U && train.type() == CV_8U);
  const auto codes = [](const cv::Mat& mat) { return Codes{mat.data, mat.rows, mat.cols}; };
  const cv::Mat q = query.isContinuous() ? query : query.clone();
  const cv::Mat t = train.isContinuous() ? train : train.clone();
  const Matches found = match(codes(q), codes(t), filters, cv::getNumThreads());
  for (size_t i = 0; i < found.distance.size(); ++i) {
    out.emplace_back(found.pairs[2 * i], found.pairs[2 * i + 1], found.distance[i]);
  }
  return out;
}

}  // namespace bindesc
