// bindesc behind OpenCV's interface: what takes the place of cv::ORB in a C++ program.
//
//   auto detector = bindesc::BinDesc::create("compact.bindesc", cv::ORB::create(1000));
//   detector->detectAndCompute(image, cv::noArray(), keypoints, descriptors);
//
// Keypoints and codes are those of Python's `bindesc.create`.
#pragma once

#include <algorithm>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <opencv2/core.hpp>
#include <opencv2/features2d.hpp>
#include <opencv2/imgproc.hpp>

#include "bindesc.h"
#include "bindesc_orb.h"

namespace bindesc {

// Detects and describes, on as many threads as cv::setNumThreads says. `model`: see Extractor.
class BinDesc : public cv::Feature2D {
 public:
  // ORB's keypoints in their true places, between the pixels if `subpixel`.
  static cv::Ptr<BinDesc> create(const std::string& model,
                                 cv::Ptr<cv::ORB> orb = cv::ORB::create(), bool subpixel = true) {
    CV_Assert(orb);
    return cv::makePtr<BinDesc>(model, kOrbScale, [=](const cv::Mat& gray, const cv::Mat& mask) {
      return strongest(detect_orb(*orb, gray, mask, subpixel), orb->getMaxFeatures());
    });
  }

  // The strongest `nfeatures` corners of FAST, with ORB's orientation.
  static cv::Ptr<BinDesc> create(const std::string& model, cv::Ptr<cv::FastFeatureDetector> fast,
                                 int nfeatures, bool subpixel = true) {
    CV_Assert(fast && nfeatures > 0);
    return cv::makePtr<BinDesc>(model, kFastScale, [=](const cv::Mat& gray, const cv::Mat& mask) {
      std::vector<cv::KeyPoint> found;
      fast->detect(gray, found, mask);
      found = strongest(std::move(found), nfeatures);
      const std::vector<float> angles = intensity_centroid(to_image(gray), pixels_of(found));
      for (size_t i = 0; i < found.size(); ++i) found[i].angle = angles[i];
      place(gray, gray.size(), subpixel, found);
      return found;
    });
  }

  // Keypoints in a CV_8UC1 image of at least 7 pixels, at 255 of a mask, which may be empty.
  using Detect = std::function<std::vector<cv::KeyPoint>(const cv::Mat& gray, const cv::Mat& mask)>;

  // Any other detector; `scale` is one of those in bindesc.h.
  BinDesc(const std::string& model, double scale, Detect detect)
      : extractor_(model), scale_(scale), detect_(std::move(detect)) {}

  // As cv::ORB: `image` is CV_8UC1, CV_8UC3 (BGR) or CV_8UC4 (BGRA). But given keypoints, which must
  // be of the same kind of detector, are all described, in their order, and any nonzero value of
  // `mask` (CV_8UC1) is valid.
  void detectAndCompute(cv::InputArray image, cv::InputArray mask,
                        std::vector<cv::KeyPoint>& keypoints, cv::OutputArray descriptors,
                        bool useProvidedKeypoints = false) override {
    const cv::Mat gray = to_gray(image.getMat());
    if (!useProvidedKeypoints) keypoints = find(gray, mask.getMat());
    if (!descriptors.needed()) return;
    if (keypoints.empty()) return descriptors.release();
    const int count = static_cast<int>(keypoints.size());
    auto codes = extractor_.compute(to_image(gray), keypoints, scale_, cv::getNumThreads());
    cv::Mat(count, extractor_.bytes(), CV_8U, codes.data()).copyTo(descriptors);
  }

  int descriptorSize() const override { return extractor_.bytes(); }
  int descriptorType() const override { return CV_8U; }
  int defaultNorm() const override { return cv::NORM_HAMMING; }
  bool empty() const override { return false; }
  cv::String getDefaultName() const override { return "Feature2D.BinDesc"; }

 private:
  static constexpr int kLeastSide = 7;  // pixels, of the ring of FAST; below, cv::ORB fails

  static cv::Mat to_gray(const cv::Mat& image) {
    const int type = image.type();
    if (image.empty() || type == CV_8UC1) return image;
    if (type != CV_8UC3 && type != CV_8UC4) {
      CV_Error(cv::Error::StsBadArg, "image: expected CV_8UC1, CV_8UC3 or CV_8UC4");
    }
    cv::Mat gray;
    cv::cvtColor(image, gray, type == CV_8UC3 ? cv::COLOR_BGR2GRAY : cv::COLOR_BGRA2GRAY);
    return gray;
  }

  std::vector<cv::KeyPoint> find(const cv::Mat& gray, const cv::Mat& mask) const {
    if (!mask.empty() && (mask.type() != CV_8UC1 || mask.size() != gray.size())) {
      CV_Error(cv::Error::StsBadArg, "mask: expected CV_8UC1 of the image's size");
    }
    if (std::min(gray.rows, gray.cols) < kLeastSide) return {};
    return detect_(gray, mask.empty() ? mask : cv::Mat(mask != 0));
  }

  // In the order in which they were found. cv::ORB too may give more than it was asked for.
  static std::vector<cv::KeyPoint> strongest(std::vector<cv::KeyPoint> keypoints, int most) {
    if (static_cast<int>(keypoints.size()) <= most) return keypoints;
    std::vector<size_t> order(keypoints.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return keypoints[a].response > keypoints[b].response;
    });
    order.resize(static_cast<size_t>(most));
    std::sort(order.begin(), order.end());
    std::vector<cv::KeyPoint> kept;
    for (const size_t i : order) kept.push_back(keypoints[i]);
    return kept;
  }

  Extractor extractor_;
  double scale_;
  Detect detect_;
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
