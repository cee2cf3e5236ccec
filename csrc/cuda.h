// The CUDA kernels' launchers; all pointers of the jobs are device pointers. Each returns null or what went wrong.
#pragma once

#include "kernels.h"

namespace dpclean {

const char* noise_cuda(const NoiseJob& job, int device, void* stream);
const char* invert_cuda(const InverseJob& job, size_t count, uint8_t* finite, int device, void* stream);

// SiLU(GroupNorm(input + added)) of `count` samples, also f16; added: [channels] of the activations' type, or null.
// scratch: as many bytes as group_norm_cuda_scratch says. At most 256 channels in a group.
const char* group_norm_cuda_scratch(const GroupNormJob& job, size_t count, int device, size_t& bytes);
const char* group_norm_cuda(const GroupNormJob& job, size_t count, const void* added, void* scratch, int device,
                            void* stream);

// x + other + first + second of channels-last activations, rounded once; the last two are [channels] or null. out may be x.
struct SumJob {
    const void *x, *other, *first, *second;
    void* out;
    Type type;
    size_t count, channels;  // elements in all
};
const char* sum_cuda(const SumJob& job, int device, void* stream);

}  // namespace dpclean
