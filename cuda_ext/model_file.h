// Model files for C++, as bindesc/cpp_export.py writes them: networks in integers.
#pragma once

#include <memory>
#include <string>

#include "cpu_network.h"

namespace bindesc {

constexpr int kCodeSide = 32, kOrientationSide = 16;  // of what the networks see, samples

struct ModelFile {
  double support;  // side of what is described over what the detector's scale gives
  std::unique_ptr<Network> codes;        // patches to bits
  std::unique_ptr<Network> orientation;  // halved patches to x, y, z, w; null where a model has none
};

// Throws std::runtime_error if the file cannot be read, is damaged, or of another version.
ModelFile read_model_file(const std::string& path);

}  // namespace bindesc
