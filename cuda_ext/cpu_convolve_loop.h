// The loop of cpu_convolve.h over a vector type V; each instruction set includes it in a namespace
// of its own, so that no inline function is shared between them.
//
//   V::kRows          pixel runs computed together: as many as the registers hold
//   V::kBlocks        channel blocks computed together at most, 1 to 3
//   V::Sum            the sums of 16 channels
//   V::start(bias)    before the first product
//   V::Input, input() four inputs for all channels
//   V::Weights, weights()
//   V::dot(sum, input, weights)
//   V::dot_window(convolution, sums, in, pixel, weights)  all products of four pixels; instead of
//                     input(), weights() and dot() where kSteps, the steps added up in 16 bits, is
//                     more than 1
//   V::store(sum, out)
//   V::store_run(sums, multiplier, out, step)  of four pixels, the sums kBlocks apart

// kFirstLayer: a window of one input channel is three rows of one step. There are so few products that
// the loops would take longer, so the compiler is told the numbers and leaves no loop.
template <class V, int kSteps, int kBlocks, bool kFirstLayer>
static void convolve_blocks(const Convolution& c, const PixelGroups& pixels, int first,
                            const uint8_t* in, uint8_t* out) {
  const int rows = kFirstLayer ? 3 : c.rows, steps = kFirstLayer ? 1 : c.steps;
  const int64_t block_bytes = int64_t{4} * kChannelBlock * rows * steps;
  const int8_t* const weights = c.weights + first * block_bytes;
  const int64_t step = pixels.in_step;
  for (int g = 0; g < pixels.count; ++g) {
    const PixelGroup& group = pixels.groups[g];
    for (int half = 0; half < kPixelRows; half += V::kRows) {
      typename V::Sum sum[V::kRows * kPixelRun][kBlocks];
      for (int b = 0; b < kBlocks; ++b) {
        const typename V::Sum start = V::start(c.bias + (first + b) * kChannelBlock);
        for (auto& pixel : sum) pixel[b] = start;
      }

      if constexpr (kSteps > 1) {
        for (int r = 0; r < V::kRows; ++r) {
          V::dot_window(c, sum[r * kPixelRun], in + group.in[half + r], step, weights);
        }
      } else {
        const int8_t* w = weights;
        for (int row = 0; row < rows; ++row) {
          const uint8_t* run[V::kRows];
          for (int r = 0; r < V::kRows; ++r) run[r] = in + group.in[half + r] + row * c.row_stride;
          for (int k = 0; k < steps; ++k, w += 4 * kChannelBlock) {
            typename V::Weights loaded[kBlocks];
            for (int b = 0; b < kBlocks; ++b) loaded[b] = V::weights(w + b * block_bytes);
            for (int r = 0; r < V::kRows; ++r, run[r - 1] += 4) {
              for (int i = 0; i < kPixelRun; ++i) {
                const typename V::Input input = V::input(run[r] + i * step);
                for (int b = 0; b < kBlocks; ++b) {
                  typename V::Sum& s = sum[r * kPixelRun + i][b];
                  s = V::dot(s, input, loaded[b]);
                }
              }
            }
          }
        }
      }
      for (int r = 0; r < V::kRows; ++r) {
        uint8_t* const pixel = out + group.out[half + r];
        for (int b = 0; b < kBlocks; ++b) {
          const int channel = (first + b) * kChannelBlock;
          const typename V::Sum* const s = &sum[r * kPixelRun][b];
          if (c.multiplier) {
            V::template store_run<kBlocks>(s, c.multiplier + channel, pixel + channel,
                                           pixels.out_step);
          } else {
            for (int i = 0; i < kPixelRun; ++i) {
              auto* const row = reinterpret_cast<int32_t*>(pixel + i * pixels.out_step);
              V::store(s[i * kBlocks], row + channel);
            }
          }
        }
      }
    }
  }
}

template <class V, int kSteps, bool kFirstLayer>
static void convolve_all(const Convolution& c, const PixelGroups& pixels, const uint8_t* in,
                         void* out) {
  const int blocks = c.channels / kChannelBlock;
  auto* const bytes = static_cast<uint8_t*>(out);
  int first = 0;
  while (first < blocks) {
    const int left = blocks - first;
    if (V::kBlocks >= 3 && left >= 3 && left != 4) {
      convolve_blocks<V, kSteps, (V::kBlocks >= 3 ? 3 : 1), kFirstLayer>(c, pixels, first, in, bytes);
      first += 3;
    } else if (V::kBlocks >= 2 && left >= 2) {
      convolve_blocks<V, kSteps, (V::kBlocks >= 2 ? 2 : 1), kFirstLayer>(c, pixels, first, in, bytes);
      first += 2;
    } else {
      convolve_blocks<V, kSteps, 1, kFirstLayer>(c, pixels, first, in, bytes);
      first += 1;
    }
  }
}

template <class V, int kSteps = 1>
static void convolve(const Convolution& c, const PixelGroups& pixels, const uint8_t* in,
                     void* out) {
  if (c.rows == 3 && c.steps == 1) {
    convolve_all<V, 1, true>(c, pixels, in, out);
  } else {
    convolve_all<V, kSteps, false>(c, pixels, in, out);
  }
}
