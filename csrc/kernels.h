// What a kernel is: the jobs it is given and the functions it offers, one Kernel an instruction set.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "noise.h"

namespace dpclean {

enum class Type { f32, bf16, f16, i16 };

// x + Z for a batch of images, as int16 grey levels or as a diffusion model's input.
struct NoiseJob {
    Stream stream;
    Table table;
    const uint8_t* images;   // [count, samples], the channel of a pixel fastest
    const int64_t* indices;  // [count]
    size_t count, samples;
    size_t channels;
    bool planar;  // out is [count, channels, pixels] instead of [count, pixels, channels]; channels 1 or 3
    Type type;
    float a;  // sqrt(abar) / 255; not used for i16
    void* out;
};

// A model tensor [N, channels, pixels] in any dense layout; strides in elements.
struct View {
    const void* data;
    Type type;
    size_t channels, image, channel, pixel;
};

// uint8 images from a prediction and the model input that it was made for.
struct InverseJob {
    Inverse inverse;
    View input, prediction;
    size_t channels, pixels;  // of an image; a one-channel image may have a three-channel prediction
    uint8_t* out;             // [N, pixels, channels]
};

// GroupNorm, then SiLU where asked, of channels-last activations.
struct GroupNormJob {
    const void* input;  // [N, pixels, channels]
    void* out;
    Type type;  // f32 or bf16; on CUDA f16 too
    const float *weight, *bias;
    size_t pixels, channels, groups;
    double eps;
    bool silu;
};

// Its gradients, from that of its result; `norm` is the job whose result it was, but `out` is the gradient of its input.
struct GroupNormGradientJob {
    GroupNormJob norm;
    const void* gradient;                    // [N, pixels, channels]
    float *weight_gradient, *bias_gradient;  // [N, channels], of each sample
};

// A sample is read in blocks of pixels, which threads may share. `sums`, float64 [blocks, 2, channels] for each sample,
// is what the first function leaves for the others: all blocks of a sample come before any of these.
struct GroupNorm {
    void (*sums)(const GroupNormJob& job, size_t sample, size_t block, double* sums);
    void (*apply)(const GroupNormJob& job, size_t sample, size_t block, const double* sums);
    void (*gradient)(const GroupNormGradientJob& job, size_t sample, const double* sums);
};

// Blocks of 1,024 pixels, or 64 larger ones.
static inline size_t pixels_per_block(const GroupNormJob& job) {
    const size_t least = (job.pixels + 63) / 64;
    return least < 1024 ? 1024 : least;
}

static inline size_t blocks_per_sample(const GroupNormJob& job) {
    return (job.pixels + pixels_per_block(job) - 1) / pixels_per_block(job);
}

struct Pixels {
    size_t first, last;
};

static inline Pixels pixels_of(const GroupNormJob& job, size_t block) {
    const size_t first = block * pixels_per_block(job), last = first + pixels_per_block(job);
    return {first, last < job.pixels ? last : job.pixels};
}

// 3 x 3 convolutions of channels-last activations, stride 1, zeros around them, plus what is added to the result.
struct ConvolutionJob {
    const void* input;    // [count, height, width, inputs], of half the height and width where upsampled
    const void* filters;  // as dpclean/denoise/winograd.py packs them, at a multiple of 64
    const float* bias;    // [outputs]
    const void* added;    // [count, height, width, outputs], or null
    void* out;            // the same
    size_t count, height, width;
    size_t inputs, outputs;  // channels: at most MOST_INPUTS, and a multiple of 32
    bool upsampled;          // each pixel of the input four times, before the convolution
};

constexpr size_t MOST_INPUTS = 1024;

struct Convolution {
    Type type;                                                          // of activations: f32 or bf16
    size_t edge;                                                        // pixels of a result's tile
    void (*tiles)(const ConvolutionJob& job, size_t first, size_t last);  // of all results
};

static inline size_t tiles_of(const ConvolutionJob& job, size_t edge) {
    return job.count * ((job.height + edge - 1) / edge) * ((job.width + edge - 1) / edge);
}

// Which of the places 0..count-1 a run takes: those whose word of its stream, in order, is below share.
struct MembersJob {
    Stream stream;
    uint32_t share;
    size_t count;
    int64_t* places;  // room for all of them; ascending
};

struct Kernel {
    const char* name;
    // Blocks [first, last) of the batch, as blocks_per_image numbers them.
    void (*noise)(const NoiseJob& job, size_t first, size_t last);
    // Pixels [first, last) of one image; returns whether every prediction read was finite.
    bool (*invert)(const InverseJob& job, size_t image, size_t first, size_t last);
    const GroupNorm* group_norm;
    size_t (*members)(const MembersJob& job);  // how many there are
    const Convolution* convolution = nullptr;  // where it is faster than what torch has
};

extern const GroupNorm GROUP_NORM_SCALAR;
#if defined(__x86_64__)
extern const GroupNorm GROUP_NORM_AVX2;
extern const GroupNorm GROUP_NORM_AVX512;
extern const Convolution CONVOLUTION_AVX2;
extern const Convolution CONVOLUTION_AVX512BF16;
#endif

// ChaCha20 blocks that a job spends on an image. Planar output wants whole pixels in a run of blocks.
static inline size_t blocks_per_image(const NoiseJob& job) {
    const size_t blocks = (job.samples + 15) / 16;
    return job.planar && job.channels == 3 ? (blocks + 2) / 3 * 3 : blocks;
}

extern const Kernel SCALAR;
#if defined(__x86_64__)
extern const Kernel AVX2;
extern const Kernel AVX512;
#endif

// The kernels this CPU can run, fastest first.
const Kernel* const* available_kernels(size_t& count);

}  // namespace dpclean
