// ORB's keypoints: found in all levels of its pyramid at once, and where they truly are. As
// bindesc/orb.py, with the same keypoints.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
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

// A level of ORB's pyramid; `mask` may be empty, else only its pixels of 255 are valid.
struct OrbLevel {
  cv::Mat image, mask;
  float scale;  // nominal, of the keypoints' size
};

// As cv::ORB makes it: level `first` is the image itself, those before it are enlarged, those after
// it shrunk from one to the next. A pixel of a shrunk mask is valid if all that it was made of are.
inline std::vector<OrbLevel> orb_pyramid(const cv::ORB& orb, const cv::Mat& gray,
                                         const cv::Mat& mask) {
  std::vector<OrbLevel> levels;
  cv::Mat image = gray, valid = mask;
  const int first = orb.getFirstLevel();
  for (int octave = 0; octave < orb.getNLevels(); ++octave) {
    const auto scale = static_cast<float>(std::pow(orb.getScaleFactor(), octave - first));
    const auto side = [inverse = 1 / scale](int whole) {
      return cvRound(static_cast<float>(whole) * inverse);
    };
    if (octave <= first) {
      image = gray;
      valid = mask;
    }
    if (octave != first) {
      const auto resized = [size = cv::Size(side(gray.cols), side(gray.rows))](const cv::Mat& mat) {
        cv::Mat out;
        cv::resize(mat, out, size, 0, 0, cv::INTER_LINEAR_EXACT);
        return out;
      };
      image = resized(image);
      if (!valid.empty()) valid = resized(valid);
    }
    if (octave > first && !valid.empty()) {
      cv::Mat whole;
      cv::threshold(valid, whole, 254, 0, cv::THRESH_TOZERO);
      valid = whole;
    }
    levels.push_back({image, valid, scale});
  }
  return levels;
}

// How many keypoints ORB takes from each level: a geometric row, in float as OpenCV does.
inline std::vector<int> orb_counts(const cv::ORB& orb) {
  const int levels = orb.getNLevels(), most = orb.getMaxFeatures();
  const auto factor = static_cast<float>(1 / orb.getScaleFactor());
  const auto last = static_cast<float>(std::pow(double{factor}, levels));
  float share = static_cast<float>(most) * (1 - factor) / (1 - last);
  std::vector<int> counts;
  int left = most;
  for (int level = 0; level + 1 < levels; ++level, share *= factor) {
    counts.push_back(cvRound(share));
    left -= counts.back();
  }
  counts.push_back(std::max(left, 0));
  return counts;
}

inline std::vector<Pixel> pixels_of(const std::vector<cv::KeyPoint>& keypoints) {
  std::vector<Pixel> pixels;
  for (const cv::KeyPoint& k : keypoints) pixels.push_back({cvRound(k.pt.x), cvRound(k.pt.y)});
  return pixels;
}

// Moves keypoints at whole pixels of a level to where they are in the image.
inline void place(const cv::Mat& level, cv::Size image, bool subpixel,
                  std::vector<cv::KeyPoint>& keypoints) {
  const std::vector<Pixel> pixels = pixels_of(keypoints);
  std::vector<std::array<double, 2>> offsets(pixels.size());
  if (subpixel) offsets = subpixel_offsets(to_image(level), pixels);
  for (size_t i = 0; i < pixels.size(); ++i) {
    const double x = pixels[i][0] + offsets[i][0], y = pixels[i][1] + offsets[i][1];
    keypoints[i].pt = {static_cast<float>(from_level(x, level.cols, image.width)),
                       static_cast<float>(from_level(y, level.rows, image.height))};
  }
}

// The keypoints of `orb.detect(gray, mask)`, in the same order, but in their true places.
inline std::vector<cv::KeyPoint> detect_orb(cv::ORB& orb, const cv::Mat& gray, const cv::Mat& mask,
                                            bool subpixel) {
  std::vector<cv::KeyPoint> found;
  if (!(orb.getScaleFactor() > 1)) {  // one level, which is the image, or an error of OpenCV
    orb.detect(gray, found, mask);
    place(gray, gray.size(), subpixel, found);
    return found;
  }
  const std::vector<OrbLevel> levels = orb_pyramid(orb, gray, mask);
  const std::vector<int> counts = orb_counts(orb);
  std::vector<std::vector<cv::KeyPoint>> parts(levels.size());
  cv::parallel_for_(cv::Range(0, static_cast<int>(levels.size())), [&](const cv::Range& range) {
    for (int octave = range.start; octave < range.end; ++octave) {
      const auto i = static_cast<size_t>(octave);
      const auto detector = cv::ORB::create(counts[i], /*scaleFactor=*/1.2f, /*nlevels=*/1,
                                            orb.getEdgeThreshold(), /*firstLevel=*/0, /*WTA_K=*/2,
                                            orb.getScoreType(), orb.getPatchSize(),
                                            orb.getFastThreshold());
      detector->detect(levels[i].image, parts[i], levels[i].mask);
      place(levels[i].image, gray.size(), subpixel, parts[i]);
      for (cv::KeyPoint& k : parts[i]) {
        k.size = static_cast<float>(orb.getPatchSize()) * levels[i].scale;
        k.octave = octave;
      }
    }
  });
  for (const auto& part : parts) found.insert(found.end(), part.begin(), part.end());
  return found;
}

}  // namespace bindesc
