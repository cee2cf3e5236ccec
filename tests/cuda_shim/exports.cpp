// The launchers of csrc/cuda.h for ctypes, on the pretended device of cuda_runtime.h.
#include "cuda.h"

#include <cuda_runtime.h>

#include <new>

using namespace dpclean;

extern "C" {

void pretend(int multiprocessors, int shared_limit, int blocks_each, int backwards) {
    shim::multiprocessors = multiprocessors, shim::shared_limit = shared_limit, shim::blocks_each = blocks_each;
    shim::backwards = backwards != 0;
}

void run_the_last_block_only(int only) { shim::last_block_only = only != 0; }

const char* noise(const uint32_t* key, uint32_t run, uint32_t test, const uint32_t* entry, const uint64_t* low,
                  uint32_t m, uint32_t k, const uint8_t* images, const int64_t* indices, size_t count, size_t samples,
                  size_t channels, int planar, int type, float a, void* out) {
    NoiseJob job{};
    memcpy(job.stream.key, key, 32);
    job.stream.run = run, job.stream.test = test ? 0x80000000 : 0;
    job.table = {entry, low, m, k};
    job.images = images, job.indices = indices, job.count = count, job.samples = samples, job.channels = channels;
    job.planar = planar != 0, job.type = static_cast<Type>(type), job.a = a, job.out = out;
    return noise_cuda(job, 0, nullptr);
}

// strides: image, channel, pixel of the input, then of the prediction
const char* invert(float p, float q, int reads_input, const void* input, int input_type, const void* prediction,
                   int prediction_type, size_t prediction_channels, const size_t* strides, size_t count, size_t channels,
                   size_t pixels, uint8_t* out, uint8_t* finite) {
    InverseJob job{{p, q, reads_input != 0},
                   {input, static_cast<Type>(input_type), channels, strides[0], strides[1], strides[2]},
                   {prediction, static_cast<Type>(prediction_type), prediction_channels, strides[3], strides[4], strides[5]},
                   channels, pixels, out};
    return invert_cuda(job, count, finite, 0, nullptr);
}

const char* group_norm(const void* input, void* out, int type, const float* weight, const float* bias,
                       const void* added, size_t count, size_t pixels, size_t channels, size_t groups, double eps,
                       int silu) {
    const GroupNormJob job{input, out, static_cast<Type>(type), weight, bias, pixels, channels, groups, eps, silu != 0};
    size_t bytes = 0;
    if (const char* bad = group_norm_cuda_scratch(job, count, 0, bytes)) return bad;
    void* scratch = bytes ? ::operator new(bytes) : nullptr;
    const char* bad = group_norm_cuda(job, count, added, scratch, 0, nullptr);
    ::operator delete(scratch);
    return bad;
}

const char* sum(const void* x, const void* other, const void* first, const void* second, void* out, int type,
                size_t count, size_t channels) {
    return sum_cuda({x, other, first, second, out, static_cast<Type>(type), count, channels}, 0, nullptr);
}
}
