// Calls of the CUDA runtime: checked, on one device, and launches.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>

namespace bindesc::cuda {

constexpr int64_t MAX_GRID = (int64_t{1} << 31) - 1;

inline thread_local char error_text[256] = "no error";

inline cudaError_t fail(cudaError_t code, const char* call) {
  std::snprintf(error_text, sizeof error_text, "%s: %s (%s)", call, cudaGetErrorString(code),
                cudaGetErrorName(code));
  cudaGetLastError();  // clears the error, which the next launch would report again
  return code;
}

#define CHECK(call)                                                             \
  do {                                                                          \
    const cudaError_t code_ = (call);                                           \
    if (code_ != cudaSuccess) return fail(code_, #call);                        \
  } while (0)

// Makes a device current for one scope.
class OnDevice {
 public:
  cudaError_t enter(int device) {
    CHECK(cudaGetDevice(&before_));
    CHECK(cudaSetDevice(device));
    entered_ = true;
    return cudaSuccess;
  }
  ~OnDevice() {
    if (entered_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0;
  bool entered_ = false;
};

#define ON_DEVICE(device)                                                       \
  OnDevice on_device_;                                                          \
  if (const cudaError_t code_ = on_device_.enter(device); code_ != cudaSuccess) return code_

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, unsigned threads,
                   cudaStream_t stream, Arguments... arguments) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > MAX_GRID) return cudaErrorInvalidConfiguration;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(threads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace bindesc::cuda
