// The CUDA kernels' launchers; all pointers of the jobs are device pointers. Each returns null or what went wrong.
#pragma once

#include "kernels.h"

namespace dpclean {

const char* noise_cuda(const NoiseJob& job, int device, void* stream);
const char* invert_cuda(const InverseJob& job, size_t count, uint8_t* finite, int device, void* stream);

}  // namespace dpclean
