#include "cpu_network.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu_pack.h"
#include "cpu_parallel.h"

namespace bindesc {
namespace {

constexpr int kSides[] = {16, 32};                   // of a patch; its variance stays exact
constexpr float kHighestMultiplier = 128;            // its product with a sum fits 32 bits

// Makes the rows of a map [side + 2][side + 2][channels] go round. `kBlock`, of which channels are a
// multiple, lets the compiler copy without a call.
template <int kBlock>
void wrap(uint8_t* map, int side, int channels) {
  const int64_t width = int64_t{side} * channels, row = width + 2 * channels;
  for (int y = 1; y <= side; ++y) {
    uint8_t* const start = map + y * row;
    for (int c = 0; c < channels; c += kBlock) {
      std::memcpy(start + c, start + width + c, kBlock);
      std::memcpy(start + width + channels + c, start + channels + c, kBlock);
    }
  }
}

// Whether, for each channel, products of `steps` steps fit 16 bits, those of even and of odd pairs
// apart. Some activations may be 0 and others 255, so that either sign's weights count alone.
bool products_fit(const std::vector<int8_t>& weights, int steps) {
  constexpr int kMost = 128;  // 255 * 128 < 2^15
  const size_t step = 4 * kChannelBlock, run = step * static_cast<size_t>(steps);
  for (size_t first = 0; first < weights.size(); first += run) {
    for (size_t pair = first; pair < first + step; pair += 2) {
      int positive = 0, negative = 0;
      for (size_t i = pair; i < first + run; i += step) {
        for (const int weight : {weights[i], weights[i + 1]}) {
          (weight > 0 ? positive : negative) += weight;
        }
      }
      if (positive > kMost || negative < -kMost) return false;
    }
  }
  return true;
}

[[noreturn]] void refuse(size_t layer, const std::string& reason) {
  throw std::invalid_argument("layers[" + std::to_string(layer) + "]: " + reason);
}

}  // namespace

struct Network::Worker::Maps {
  Aligned<uint8_t> input;
  std::vector<Aligned<uint8_t>> maps;  // the output of each layer but the last
  std::vector<int32_t> sums;           // of the last

  explicit Maps(const Network& network)
      : sums(static_cast<size_t>(kTogether * network.outputs())) {
    const int with_border = network.side_ + 2;
    const int64_t input_bytes = with_border * with_border + 4;  // a window's last word reaches over
    input = make_aligned<uint8_t>(input_bytes);
    std::memset(input.get(), kInputZero, static_cast<size_t>(input_bytes));
    for (size_t i = 0; i + 1 < network.layers_.size(); ++i) {
      const bool last_map = i + 2 == network.layers_.size();
      const int64_t bytes = network.layers_[i].map_bytes() * (last_map ? kTogether : 1);
      maps.push_back(make_aligned<uint8_t>(bytes));
      std::memset(maps.back().get(), 0, static_cast<size_t>(bytes));
    }
  }
};

Network::Layer::Layer(const LayerSpec& spec, int side, bool last, bool bordered_output)
    : channels_(spec.channels) {
  const int inputs = spec.inputs;
  const int run = spec.width * inputs;  // bytes of a window's row
  const int in_side = side + 2;         // with the border
  rows_ = last ? 1 : spec.height;
  steps_ = last ? spec.height * run / 4 : (run + 3) / 4;
  row_stride_ = int64_t{in_side} * inputs;
  bias_.assign(spec.bias, spec.bias + channels_);
  signed_bias_ = bias_;
  if (!last) multiplier_.assign(spec.multiplier, spec.multiplier + channels_);

  weights_.assign(static_cast<size_t>(channels_) * 4 * rows_ * steps_, 0);
  const int bytes = last ? spec.height * run : run;  // of weights in a run; the rest stays zero
  for (int c = 0; c < channels_; ++c) {
    for (int row = 0; row < rows_; ++row) {
      for (int i = 0; i < bytes; ++i) {
        const int64_t step = int64_t{c / kChannelBlock * rows_ + row} * steps_ + i / 4;
        const int8_t weight = spec.weights[(int64_t{c} * rows_ + row) * bytes + i];
        weights_[static_cast<size_t>((step * kChannelBlock + c % kChannelBlock) * 4 + i % 4)] =
            weight;
        signed_bias_[static_cast<size_t>(c)] += 128 * weight;
      }
    }
  }

  if (steps_ % kFitSteps == 0 && products_fit(weights_, kFitSteps)) {
    fit_steps_ = kFitSteps;
  } else {
    fit_steps_ = products_fit(weights_, 1) ? 1 : 0;
  }

  if (last) {  // its "pixels" are the patches of a group
    side_ = 1;
    in_step_ = int64_t{spec.height} * run;
    out_step_ = int64_t{channels_} * 4;
    map_bytes_ = out_step_;
    groups_ = {{{0, kPixelRun * in_step_}, {0, kPixelRun * out_step_}}};
    return;
  }
  side_ = (side + spec.stride - 1) / spec.stride;
  const int out_side = side_ + (bordered_output ? 2 : 0);
  const int border = bordered_output ? 1 : 0;
  in_step_ = int64_t{spec.stride} * inputs;
  out_step_ = channels_;
  map_bytes_ = int64_t{out_side} * out_side * channels_;
  const auto at = [&](int pixel, int64_t& in, int64_t& out) {
    const int y = pixel / side_, x = pixel % side_;
    in = y * spec.stride * row_stride_ + x * in_step_;
    out = (int64_t{y + border} * out_side + x + border) * channels_;
  };
  for (int pixel = 0; pixel < side_ * side_; pixel += kTogether) {
    PixelGroup group;
    at(pixel, group.in[0], group.out[0]);
    at(pixel + kPixelRun, group.in[1], group.out[1]);
    groups_.push_back(group);
  }
}

Convolution Network::Layer::convolution() const {
  return {weights_.data(),
          bias_.data(),
          signed_bias_.data(),
          multiplier_.empty() ? nullptr : multiplier_.data(),
          channels_,
          rows_,
          steps_,
          row_stride_,
          fit_steps_};
}

PixelGroups Network::Layer::pixels() const {
  return {groups_.data(), static_cast<int>(groups_.size()), in_step_, out_step_};
}

Network::Network(const std::vector<LayerSpec>& specs, float input_scale, bool round)
    : input_scale_(input_scale), round_(round) {
  if (specs.size() < 2) throw std::invalid_argument("layers: two at least");
  if (!(input_scale > 0)) throw std::invalid_argument("input_scale: must be positive");
  // The side that the strides bring down to the last window.
  int stride = 1;
  for (size_t i = 0; i + 1 < specs.size(); ++i) stride *= std::max(1, std::min(2, specs[i].stride));
  side_ = specs.back().height * stride == kSides[0] ? kSides[0] : kSides[1];
  int side = side_, inputs = 1;
  for (size_t i = 0; i < specs.size(); ++i) {
    const LayerSpec& spec = specs[i];
    const bool last = i + 1 == specs.size();
    const int window = last ? side : 3;
    if (spec.inputs != inputs) {
      refuse(i, "expected " + std::to_string(inputs) + " inputs, got " + std::to_string(spec.inputs));
    }
    if (spec.height != window || spec.width != window) {
      refuse(i, "expected a window of " + std::to_string(window) + "x" + std::to_string(window) +
                    ", got " + std::to_string(spec.height) + "x" + std::to_string(spec.width));
    }
    if (spec.channels < 1 || spec.channels % kChannelBlock) {
      refuse(i, "channels must be a multiple of 16, got " + std::to_string(spec.channels));
    }
    for (int c = 0; !last && c < spec.channels; ++c) {
      if (!(spec.multiplier[c] >= 0 && spec.multiplier[c] < kHighestMultiplier)) {
        refuse(i, "multipliers must be from 0 to 128, got " + std::to_string(spec.multiplier[c]));
      }
    }
    if (!last && spec.stride != 1 && spec.stride != 2) {
      refuse(i, "stride must be 1 or 2, got " + std::to_string(spec.stride));
    }
    if (!last && (side / spec.stride) % kPixelRun) {
      refuse(i, "a map of " + std::to_string(side / spec.stride) + " pixels; 4, 8, 16 or 32");
    }
    layers_.emplace_back(spec, side, last, i + 2 < specs.size());
    side = layers_.back().side();
    inputs = spec.channels;
  }
}

Network::Worker::Worker(const Network& network)
    : network_(&network), maps_(std::make_unique<Maps>(network)) {}
Network::Worker::~Worker() = default;
Network::Worker::Worker(Worker&&) noexcept = default;

const int32_t* Network::Worker::run(const Kernel& kernel, const uint8_t* patches, int count) {
  const std::vector<Layer>& layers = network_->layers_;
  const int side = network_->side_;
  const size_t before = layers.size() - 1;
  for (int p = 0; p < count; ++p) {
    kernel.normalise(patches + p * side * side, side, network_->input_scale_, maps_->input.get());
    if (network_->round_) wrap<1>(maps_->input.get(), side, 1);
    const uint8_t* in = maps_->input.get();
    for (size_t i = 0; i < before; ++i) {
      uint8_t* map = maps_->maps[i].get();
      if (i + 1 == before) map += p * layers[i].map_bytes();
      kernel.convolve(layers[i].convolution(), layers[i].pixels(), in, map);
      if (network_->round_ && i + 1 < before) {
        wrap<kChannelBlock>(map, layers[i].side(), layers[i].channels());
      }
      in = map;
    }
  }
  kernel.convolve(layers[before].convolution(), layers[before].pixels(),
                  maps_->maps[before - 1].get(), maps_->sums.data());
  return maps_->sums.data();
}

bool Network::run(const Kernel& kernel, const uint8_t* patches, int64_t count, int threads,
                  Stop& stop, const Output& output) const {
  return parallel_groups<Worker>(
      count, kTogether, threads, stop, [&] { return Worker(*this); },
      [&](Worker& worker, int64_t first, int some) {
        output(first, some, worker.run(kernel, patches + first * side_ * side_, some));
      });
}

void pack_signs(const int32_t* sums, int64_t count, int outputs, uint8_t* codes) {
  for (int64_t i = 0; i < count * outputs; i += 8) {
    unsigned byte = 0;
    for (int bit = 0; bit < 8; ++bit) byte = byte << 1 | unsigned{sums[i + bit] >= 0};
    *codes++ = static_cast<uint8_t>(byte);
  }
}

}  // namespace bindesc
