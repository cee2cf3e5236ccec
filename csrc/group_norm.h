// GroupNorm and SiLU of channels-last activations, for any vector width: each file that includes this sets the width.
//
// Lanes are channels and every channel is summed down its pixels in one order, so the result depends on the sample and
// on (pixels, channels, groups) only: not on the vector width, the batch, or which groups a thread was given.
#pragma once

#include <math.h>

#include "kernels.h"

namespace dpclean {
namespace {

constexpr size_t ROWS = 32;  // pixels summed in float32 before their sums go to float64
constexpr size_t MAX_CHANNELS = 8192;

template <size_t LANES>
struct Vectors {
    typedef float F __attribute__((vector_size(4 * LANES)));
    typedef int32_t I __attribute__((vector_size(4 * LANES)));
    typedef uint32_t U __attribute__((vector_size(4 * LANES)));
    typedef uint16_t H __attribute__((vector_size(2 * LANES)));
    static constexpr size_t lanes = LANES;
};

// A copy of constant size wherever the lanes are full: that one is an instruction.
inline void copy_some(void* to, const void* from, size_t bytes, size_t whole) {
    if (bytes >= whole)
        memcpy(to, from, whole);
    else
        memcpy(to, from, bytes);
}

// Lanes beyond `count` are zero, and not stored.
template <class V>
inline typename V::F load_lanes(const F32* from, size_t count) {
    typename V::F x = {};
    copy_some(&x, from, 4 * count, sizeof x);
    return x;
}

template <class V>
inline typename V::F load_lanes(const BF16* from, size_t count) {
    typename V::H x = {};
    copy_some(&x, from, 2 * count, sizeof x);
    return reinterpret_cast<typename V::F>(__builtin_convertvector(x, typename V::U) << 16);
}

template <class V>
inline void store_lanes(F32* to, typename V::F x, size_t count) {
    copy_some(to, &x, 4 * count, sizeof x);
}

template <class V>
inline void store_lanes(BF16* to, typename V::F x, size_t count) {
    const auto u = reinterpret_cast<typename V::U>(x);
    const auto half = __builtin_convertvector((u + 0x7fff + (u >> 16 & 1)) >> 16, typename V::H);
    copy_some(to, &half, 2 * count, sizeof half);
}

// e^x for |x| <= 87, relative error below 2e-7: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' expf).
template <class V>
inline typename V::F exponential(typename V::F x) {
    using F = typename V::F;
    const F shifted = x * 1.44269504f + 12582912.0f;  // at 1.5 * 2^23 the sum rounds to an integer in its low bits
    const F n = shifted - 12582912.0f;
    const F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    F p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r * r + r) + 1.0f;
    return reinterpret_cast<F>(reinterpret_cast<typename V::U>(p) + (reinterpret_cast<typename V::U>(shifted) << 23));
}

// x / (1 + e^-x); NaN stays NaN.
template <class V>
inline typename V::F silu(typename V::F x) {
    using F = typename V::F;
    const F low = F{} - 87.0f, high = F{} + 87.0f;
    F negated = -x;
    negated = negated < low ? low : negated;
    negated = negated > high ? high : negated;
    return x / (exponential<V>(negated) + 1.0f);
}

// Sums over all pixels of (x - shift) and its square, channels [first, last); shift is the group's first chunk's mean.
template <class V, class T>
void sum_channels(const T* x, const GroupNormJob& job, size_t first, size_t last, const float* shift, double* sums,
                  double* squares, size_t pixels) {
    for (size_t start = 0; start < pixels; start += ROWS) {
        const size_t end = start + ROWS < pixels ? start + ROWS : pixels;
        for (size_t c = first; c < last; c += V::lanes) {
            const size_t count = last - c;
            const typename V::F away = load_lanes<V>(reinterpret_cast<const F32*>(shift + c), count);
            typename V::F sum = {}, square = {};
            for (size_t p = start; p < end; p++) {
                const typename V::F d = load_lanes<V>(x + p * job.channels + c, count) - away;
                sum += d;
                square += d * d;
            }
            for (size_t i = 0; i < V::lanes && i < count; i++) {
                sums[c + i] += static_cast<double>(sum[i]);
                squares[c + i] += static_cast<double>(square[i]);
            }
        }
    }
}

// y = x scale + offset, for the channels of groups [first_group, last_group) of one sample.
template <class V, class T>
void group_norm_of(const GroupNormJob& job, size_t sample, size_t first_group, size_t last_group) {
    const size_t each = job.channels / job.groups, first = first_group * each, last = last_group * each;
    const T* x = static_cast<const T*>(job.input) + sample * job.pixels * job.channels;
    T* out = static_cast<T*>(job.out) + sample * job.pixels * job.channels;
    alignas(64) static thread_local float scale[MAX_CHANNELS], offset[MAX_CHANNELS];
    static thread_local double sums[MAX_CHANNELS], squares[MAX_CHANNELS];
    const auto clear = [&] {
        for (size_t c = first; c < last; c++) sums[c] = squares[c] = 0.0;
    };
    float* shift = scale;  // until the statistics are there

    // A shift near the mean keeps the squares' difference from cancelling.
    for (size_t c = first; c < last; c++) shift[c] = 0.0f;
    clear();
    const size_t rows = ROWS < job.pixels ? ROWS : job.pixels;
    sum_channels<V>(x, job, first, last, shift, sums, squares, rows);
    for (size_t g = first_group; g < last_group; g++) {
        double sum = 0.0;
        for (size_t c = g * each; c < (g + 1) * each; c++) sum += sums[c];
        for (size_t c = g * each; c < (g + 1) * each; c++)
            shift[c] = static_cast<float>(sum / static_cast<double>(rows * each));
    }
    clear();
    sum_channels<V>(x, job, first, last, shift, sums, squares, job.pixels);
    for (size_t g = first_group; g < last_group; g++) {
        double sum = 0.0, square = 0.0;
        for (size_t c = g * each; c < (g + 1) * each; c++) sum += sums[c], square += squares[c];
        const double number = static_cast<double>(job.pixels * each), away = sum / number;
        const double variance = square / number - away * away;
        const double mean = static_cast<double>(shift[g * each]) + away;
        const double inverse = 1.0 / sqrt((variance > 0.0 || variance != variance ? variance : 0.0) + job.eps);
        for (size_t c = g * each; c < (g + 1) * each; c++) {
            const double slope = inverse * static_cast<double>(job.weight[c]);
            scale[c] = static_cast<float>(slope);
            offset[c] = static_cast<float>(static_cast<double>(job.bias[c]) - mean * slope);
        }
    }
    for (size_t p = 0; p < job.pixels; p++)
        for (size_t c = first; c < last; c += V::lanes) {
            const size_t i = p * job.channels + c, count = last - c;
            typename V::F y = load_lanes<V>(x + i, count) * load_lanes<V>(reinterpret_cast<const F32*>(scale + c), count);
            y += load_lanes<V>(reinterpret_cast<const F32*>(offset + c), count);
            store_lanes<V>(out + i, job.silu ? silu<V>(y) : y, count);
        }
}

template <size_t LANES>
void group_norm(const GroupNormJob& job, size_t sample, size_t first_group, size_t last_group) {
    if (job.type == Type::bf16)
        group_norm_of<Vectors<LANES>, BF16>(job, sample, first_group, last_group);
    else
        group_norm_of<Vectors<LANES>, F32>(job, sample, first_group, last_group);
}

}  // namespace
}  // namespace dpclean
