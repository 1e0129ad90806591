// Keypoints to codes: bindesc/patches.py and bindesc/orientation.py, with the same arithmetic.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <thread>

#include "bindesc.h"
#include "cpu_corners.h"
#include "cpu_describe.h"
#include "cpu_sample.h"
#include "model_file.h"
#include "pyramid.h"

namespace bindesc {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kLeastSide = 8, kUsualSide = 31;  // pixels, of patches before the support
constexpr int kCircle = 2;  // the side where a coordinate of 1 lies on the last ring's circle
constexpr int64_t kChunk = 4096;  // keypoints whose patches are held at a time

// [[a, b], [c, d]]
struct Matrix {
  double a, b, c, d;
};

double radians(double degrees) { return degrees * (kPi / 180); }

// From a patch's coordinates, in samples from its centre, to offsets in the image.
Matrix similarity(const KeyPoint& keypoint, double scale, int side) {
  const double step = keypoint.size * scale / side;
  const double angle = keypoint.angle < 0 ? 0 : radians(keypoint.angle);
  const double cosine = step * std::cos(angle), sine = step * std::sin(angle);
  return {cosine, -sine, sine, cosine};
}

// From a patch's coordinates to the image's, [2][3]; see PatchPlaces.
void write_affine(const KeyPoint& keypoint, double scale, int side, float* out) {
  const Matrix linear = similarity(keypoint, scale, side);
  const double values[] = {linear.a, linear.b, keypoint.x, linear.c, linear.d, keypoint.y};
  std::transform(values, values + 6, out, [](double value) { return static_cast<float>(value); });
}

// The level whose pixels come closest to the sampling step.
int level_of(const KeyPoint& keypoint, double scale, int side, int levels) {
  const float step = keypoint.size * static_cast<float>(scale / side);
  const float level = std::nearbyint(std::log2(std::max(step, 1e-6f)));
  return static_cast<int>(std::clamp(level, 0.0f, static_cast<float>(levels - 1)));
}

void check(const GrayImage& image) {
  if (!image.data || image.width < 1 || image.height < 1 || image.row_bytes < image.width) {
    throw std::invalid_argument("image: expected pixels, and rows of at least its width");
  }
}

void check(const KeyPoint& keypoint) {
  const bool finite = std::isfinite(keypoint.x) && std::isfinite(keypoint.y) &&
                      std::isfinite(keypoint.size) && std::isfinite(keypoint.angle);
  if (!finite || !(keypoint.size > 0)) {
    throw std::invalid_argument("keypoints: values must be finite, sizes positive");
  }
}

int thread_count(int threads) {
  if (threads < 0) throw std::invalid_argument("threads: must not be negative");
  return threads ? threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

bool never() { return false; }

// Two values for each corner by a function of cpu_corners.h.
template <class T>
std::vector<std::array<T, 2>> measured(const GrayImage& image, const std::vector<Pixel>& corners,
                                       void (*measure)(const Image&, const Corners&, T*)) {
  static_assert(sizeof(std::array<T, 2>) == 2 * sizeof(T));
  check(image);
  std::vector<std::array<T, 2>> values(corners.size());
  const Pyramid whole(image, 1);
  if (corners.size()) {
    measure(whole.levels()[0], {corners[0].data(), static_cast<int64_t>(corners.size())},
            values[0].data());
  }
  return values;
}

}  // namespace

struct Extractor::Model {
  ModelFile file;

  void describe(const Pyramid& pyramid, const std::vector<KeyPoint>& keypoints, double scale,
                int threads, uint8_t* codes) const {
    if (file.codes->round()) {
      describe_log_polar(pyramid, keypoints, scale, threads, codes);
      return;
    }
    const auto count = static_cast<int64_t>(keypoints.size());
    for (int64_t first = 0; first < count; first += kChunk) {
      describe_square(pyramid, keypoints.data() + first, std::min(kChunk, count - first), scale,
                      threads, codes + first * (file.codes->outputs() / 8));
    }
  }

 private:
  void describe_log_polar(const Pyramid& pyramid, const std::vector<KeyPoint>& keypoints,
                          double scale, int threads, uint8_t* codes) const {
    const size_t count = keypoints.size();
    std::vector<float> circles(6 * count);
    const auto upright = std::make_unique<bool[]>(count);
    for (size_t i = 0; i < count; ++i) {
      write_affine(keypoints[i], scale, kCircle, circles.data() + 6 * i);
      upright[i] = keypoints[i].angle < 0;
    }
    Stop stop(never);
    bindesc::describe_log_polar(choose_kernel(), {file.codes.get(), file.orientation.get()},
                                pyramid.levels(), {circles.data(), static_cast<int64_t>(count)},
                                upright.get(), threads, stop, codes);
  }

  // Square patches [count][kCodeSide][kCodeSide].
  std::vector<uint8_t> cut(const Pyramid& pyramid, const KeyPoint* keypoints, int64_t count,
                           double scale, int threads) const {
    std::vector<float> affine(static_cast<size_t>(6 * count));
    std::vector<int32_t> level(static_cast<size_t>(count));
    const int levels = static_cast<int>(pyramid.levels().size());
    for (int64_t i = 0; i < count; ++i) {
      const KeyPoint& keypoint = keypoints[i];
      float* const values = affine.data() + 6 * i;
      write_affine(keypoint, scale, kCodeSide, values);
      level[static_cast<size_t>(i)] = level_of(keypoint, scale, kCodeSide, levels);
      const float pixel = std::ldexp(1.0f, level[static_cast<size_t>(i)]);
      std::for_each(values, values + 6, [=](float& value) { value /= pixel; });
    }
    std::vector<uint8_t> patches(static_cast<size_t>(count * kCodeSide * kCodeSide));
    Stop stop(never);
    sample_patches(choose_kernel(), pyramid.levels(),
                   {affine.data(), level.data(), count, kCodeSide}, threads, stop, patches.data());
    return patches;
  }

  void describe_square(const Pyramid& pyramid, const KeyPoint* keypoints, int64_t count,
                       double scale, int threads, uint8_t* codes) const {
    const auto patches = cut(pyramid, keypoints, count, scale, threads);
    const int outputs = file.codes->outputs();
    const auto pack = [&](int64_t first, int some, const int32_t* sums) {
      pack_signs(sums, some, outputs, codes + first * (outputs / 8));
    };
    Stop stop(never);
    file.codes->run(choose_kernel(), patches.data(), count, threads, stop, pack);
  }
};

Extractor::Extractor(const std::string& model)
    : model_(std::make_unique<const Model>(Model{read_model_file(model)})) {}
Extractor::~Extractor() = default;
Extractor::Extractor(Extractor&&) noexcept = default;
Extractor& Extractor::operator=(Extractor&&) noexcept = default;

int Extractor::bytes() const { return model_->file.codes->outputs() / 8; }

std::vector<uint8_t> Extractor::compute(const GrayImage& image,
                                        const std::vector<KeyPoint>& keypoints, double scale,
                                        int threads) const {
  check(image);
  if (!(scale > 0 && std::isfinite(scale))) {
    throw std::invalid_argument("scale: must be positive");
  }
  threads = thread_count(threads);
  const ModelFile& file = model_->file;
  const double total = scale * file.support;
  const int most = most_levels(image);
  int levels = 1;
  std::vector<KeyPoint> sized = keypoints;
  for (KeyPoint& keypoint : sized) {
    check(keypoint);
    if (keypoint.size * scale < kLeastSide) keypoint.size = static_cast<float>(kUsualSide / scale);
    if (file.codes->round()) {
      float circle[6];
      write_affine(keypoint, total, kCircle, circle);
      levels = std::max(levels, std::min(log_polar_levels(circle), most));
    } else {
      levels = std::max(levels, 1 + level_of(keypoint, total, kCodeSide, most));
    }
  }
  const Pyramid pyramid(image, levels);
  std::vector<uint8_t> codes(sized.size() * static_cast<size_t>(bytes()));
  model_->describe(pyramid, sized, total, threads, codes.data());
  return codes;
}

Matches match(Codes query, Codes train, const Filters& filters, int threads) {
  if (query.bytes != train.bytes || query.bytes < 1 || query.bytes > kMaxBytes) {
    throw std::invalid_argument("codes: expected two sets of one width, 1 to 64 bytes");
  }
  Matches found;
  Stop stop(never);
  match(choose_kernel(), query, train, filters, thread_count(threads), stop, found);
  return found;
}

std::vector<std::array<double, 2>> subpixel_offsets(const GrayImage& image,
                                                    const std::vector<Pixel>& corners) {
  return measured<double>(image, corners, subpixel_offsets);
}

std::vector<float> intensity_centroid(const GrayImage& image, const std::vector<Pixel>& corners) {
  std::vector<float> angles;
  for (const auto& [x, y] : measured<int32_t>(image, corners, disc_moments)) {
    const auto degrees = static_cast<float>(std::atan2(y, x) * (180 / kPi));
    const float angle = degrees < 0 ? degrees + 360 : degrees;
    angles.push_back(angle < 360 ? angle : 0);  // a tiny negative one is rounded up to 360
  }
  return angles;
}

}  // namespace bindesc
