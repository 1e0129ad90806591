// Model files for C++, as bindesc/cpp_export.py writes them: networks in integers.
#pragma once

#include <memory>
#include <string>

#include "cpu_network.h"

namespace bindesc {

struct ModelFile {
  double support;                        // side of the patch over what the detector's scale gives
  std::unique_ptr<Network> codes;        // 32x32 patches to bits
  std::unique_ptr<Network> orientation;  // 16x16 patches to frames; null where a model has none
};

// Throws std::runtime_error if the file cannot be read, is damaged, or of another version.
ModelFile read_model_file(const std::string& path);

}  // namespace bindesc
