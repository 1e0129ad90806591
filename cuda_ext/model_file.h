// Model files for C++, as bindesc/cpp_export.py writes them: networks in integers.
#pragma once

#include <memory>
#include <string>

#include "cpu_network.h"

namespace bindesc {

constexpr int kCodeSide = 32, kOrientationSide = 16;  // of patches, samples

struct ModelFile {
  double support;  // side of what is described over what the detector's scale gives
  double reach;    // the same side over that of the patch that `orientation` sees
  std::unique_ptr<Network> codes;        // patches to bits
  std::unique_ptr<Network> orientation;  // patches to frames; null where a model has none
};

// Throws std::runtime_error if the file cannot be read, is damaged, or of another version.
ModelFile read_model_file(const std::string& path);

}  // namespace bindesc
