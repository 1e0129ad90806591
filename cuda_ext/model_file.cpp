#include "model_file.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <utility>
#include <vector>

namespace bindesc {
namespace {

constexpr char kMagic[] = {'b', 'i', 'n', 'd', 'e', 's', 'c', '3'};
constexpr float kInputScale = 32;      // INPUT_SCALE in bindesc/models/integer.py
constexpr uint32_t kMostOfAShape = 4096;
constexpr int kOrientationOutputs = 4;

// As zlib's.
uint32_t crc32(const char* data, size_t size) {
  uint32_t crc = ~0u;
  for (size_t i = 0; i < size; ++i) {
    crc ^= static_cast<uint8_t>(data[i]);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1)));
  }
  return ~crc;
}

// Takes values from the front of a file's bytes.
class Reader {
 public:
  Reader(const char* data, size_t size) : data_(data), left_(size) {}

  template <class T>
  std::vector<T> take(size_t count) {
    if (count > left_ / sizeof(T)) throw std::runtime_error("it ends too early");
    std::vector<T> values(count);
    const size_t bytes = count * sizeof(T);
    std::copy_n(data_, bytes, reinterpret_cast<char*>(values.data()));
    data_ += bytes;
    left_ -= bytes;
    return values;
  }
  template <class T>
  T take() {
    return take<T>(1)[0];
  }
  size_t left() const { return left_; }

 private:
  const char* data_;
  size_t left_;
};

std::unique_ptr<Network> read_network(Reader& reader, bool round) {
  struct Tensors {
    std::vector<int8_t> weights;
    std::vector<int32_t> bias;
    std::vector<float> multiplier;
  };
  const auto count = reader.take<uint32_t>();
  std::vector<Tensors> tensors;
  std::vector<LayerSpec> specs;
  for (uint32_t i = 0; i < count; ++i) {
    const auto shape = reader.take<uint32_t>(5);  // channels, height, width, inputs, stride
    size_t weights = 1;
    for (size_t axis = 0; axis < 4; ++axis) {
      if (shape[axis] < 1 || shape[axis] > kMostOfAShape) throw std::runtime_error("a wrong shape");
      weights *= shape[axis];
    }
    const auto channels = shape[0];
    const bool last = i + 1 == count;
    Tensors layer{reader.take<int8_t>(weights), reader.take<int32_t>(channels),
                  reader.take<float>(last ? 0 : channels)};
    tensors.push_back(std::move(layer));  // moving keeps where the values are
    const Tensors& kept = tensors.back();
    const auto side = [&](size_t axis) { return static_cast<int>(shape[axis]); };
    specs.push_back({kept.weights.data(), side(0), side(1), side(2), side(3), side(4),
                     kept.bias.data(), last ? nullptr : kept.multiplier.data()});
  }
  return std::make_unique<Network>(specs, kInputScale, round);
}

ModelFile parse(const std::vector<char>& bytes) {
  if (bytes.size() < sizeof kMagic || std::memcmp(bytes.data(), kMagic, sizeof kMagic) != 0) {
    throw std::runtime_error("not a model that 'bindesc export --cpp' of this version wrote");
  }
  uint32_t expected = 0;
  if (bytes.size() < sizeof kMagic + sizeof expected) throw std::runtime_error("it ends too early");
  const size_t size = bytes.size() - sizeof expected;
  std::memcpy(&expected, bytes.data() + size, sizeof expected);
  if (crc32(bytes.data(), size) != expected) throw std::runtime_error("damaged");

  Reader reader(bytes.data() + sizeof kMagic, size - sizeof kMagic);
  ModelFile model{};
  model.support = reader.take<double>();
  const bool log_polar = reader.take<uint32_t>() != 0;
  model.codes = read_network(reader, log_polar);
  if (log_polar && reader.left()) model.orientation = read_network(reader, true);
  if (!(model.support > 0) || reader.left() || model.codes->side() != kCodeSide ||
      (model.orientation && (model.orientation->side() != kOrientationSide ||
                             model.orientation->outputs() < kOrientationOutputs))) {
    throw std::runtime_error("not a model of patches");
  }
  return model;
}

}  // namespace

ModelFile read_model_file(const std::string& path) {
  try {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot be read");
    return parse({std::istreambuf_iterator<char>(file), {}});
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

}  // namespace bindesc
