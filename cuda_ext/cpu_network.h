// A convolutional network in integers, from grey patches to binary codes.
//
// The arithmetic is exact: sums stay below 2^24, and the two floating-point steps (the scale of a
// patch's contrast, the factor between layers) are single, correctly rounded operations. So every
// instruction set, number of threads and batch gives the same bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cpu_convolve.h"
#include "cpu_kernel.h"
#include "hamming.h"

namespace bindesc {

// A layer as Python has it. All but the last are 3x3 convolutions with a border of one; the last
// one spans its whole input map.
struct LayerSpec {
  const int8_t* weights;  // [channels][height][width][inputs]
  int channels, height, width, inputs;
  int stride;
  const int32_t* bias;      // [channels]
  const float* multiplier;  // [channels]; null in the last layer
};

class Network {
 public:
  // `input_scale`: what one standard deviation of a patch becomes in the first layer's input.
  // `round`: rows go round, as those of log-polar patches do: the border at their one end holds
  // what stands at the other. Throws std::invalid_argument if the layers do not fit each other.
  Network(const std::vector<LayerSpec>& layers, float input_scale, bool round = false);

  bool round() const { return round_; }
  int side() const { return side_; }  // of a patch, as strides and the last window make it
  int outputs() const { return layers_.back().convolution().channels; }

  static constexpr int kTogether = kPixelRows * kPixelRun;  // patches whose last layer is done at once

  // The network on one thread, with the memory that it needs. It refers to the network.
  class Worker {
   public:
    explicit Worker(const Network& network);
    ~Worker();
    Worker(Worker&&) noexcept;

    // [count][side][side] patches, kTogether at most, to [count][outputs] sums, good until the next
    // run.
    const int32_t* run(const Kernel& kernel, const uint8_t* patches, int count);

   private:
    struct Maps;
    const Network* network_;
    std::unique_ptr<Maps> maps_;
  };

  // What becomes of patches [first, first + count): `sums` is [count][outputs].
  using Output = std::function<void(int64_t first, int count, const int32_t* sums)>;

  // Runs [count][side][side] patches; `output` is called from several threads. False if stopped.
  bool run(const Kernel& kernel, const uint8_t* patches, int64_t count, int threads, Stop& stop,
           const Output& output) const;

 private:
  class Layer {
   public:
    Layer(const LayerSpec& spec, int side, bool last, bool bordered_output);
    Convolution convolution() const;
    PixelGroups pixels() const;
    int64_t map_bytes() const { return map_bytes_; }
    int side() const { return side_; }
    int channels() const { return channels_; }

   private:
    int channels_, rows_, steps_, side_;  // of the output
    int64_t row_stride_, in_step_, out_step_, map_bytes_;
    std::vector<int8_t> weights_;
    std::vector<int32_t> bias_, signed_bias_;
    std::vector<float> multiplier_;
    std::vector<PixelGroup> groups_;
    int fit_steps_;
  };

  std::vector<Layer> layers_;
  float input_scale_;
  bool round_;
  int side_;
};

// A bit is sum >= 0, the first in the most significant place: [count][outputs] sums to
// [count][outputs / 8] bytes.
void pack_signs(const int32_t* sums, int64_t count, int outputs, uint8_t* codes);

}  // namespace bindesc
