// GroupNorm and SiLU of channels-last activations, and their gradients, for any vector width: each file that includes
// this has a `Wide` with the lanes, the loads and the stores; other arithmetic is the compiler's own on its vectors.
//
// Lanes are channels. Every channel is summed down the pixels of a block, then over the blocks, in one order, so a kernel's
// result depends on the sample and on (pixels, channels, groups) only: not on the batch, or which blocks a thread got.
#pragma once

#include <math.h>

#include "kernels.h"

namespace dpclean {
namespace {

constexpr size_t ROWS = 128;  // pixels summed in float32 before their sums go to float64
constexpr size_t SHIFT_ROWS = 16;
constexpr size_t MAX_CHANNELS = 8192;

// The last lanes of a row, where fewer than a vector are left: through a buffer, zeros beyond.
template <class Wide, class T>
inline typename Wide::F load_some(const T* from, size_t count) {
    if (count >= Wide::lanes) return Wide::load(from);
    T whole[Wide::lanes] = {};
    memcpy(whole, from, count * sizeof(T));
    return Wide::load(whole);
}

template <class Wide, class T>
inline void store_some(T* to, typename Wide::F x, size_t count) {
    if (count >= Wide::lanes) return Wide::store(to, x);
    T whole[Wide::lanes];
    Wide::store(whole, x);
    memcpy(to, whole, count * sizeof(T));
}

// Polynomial of 2^f for |f| <= 1/2, relative error 2e-7.
template <class Wide>
inline typename Wide::F power_of_two(typename Wide::F f) {
    typename Wide::F p = Wide::multiply_add(f, typename Wide::F{} + 1.3333558e-3f, typename Wide::F{} + 9.6181291e-3f);
    p = Wide::multiply_add(p, f, typename Wide::F{} + 5.5504109e-2f);
    p = Wide::multiply_add(p, f, typename Wide::F{} + 2.4022651e-1f);
    p = Wide::multiply_add(p, f, typename Wide::F{} + 6.9314718e-1f);
    return Wide::multiply_add(p, f, typename Wide::F{} + 1.0f);
}

// The same, relative error 8e-5: enough for what is stored as bfloat16, which is off by 4e-3 itself.
template <class Wide>
inline typename Wide::F rough_power_of_two(typename Wide::F f) {
    typename Wide::F p = Wide::multiply_add(f, typename Wide::F{} + 5.517167e-2f, typename Wide::F{} + 2.4261112e-1f);
    p = Wide::multiply_add(p, f, typename Wide::F{} + 6.9326099e-1f);
    return Wide::multiply_add(p, f, typename Wide::F{} + 9.9992807e-1f);
}

// 1 + e^-x, relative error below 1e-6 for |x| < 8 and 8e-6 everywhere; NaN stays NaN. For kernels without an
// instruction that scales by a power of two.
template <class Wide, bool ROUGH = false>
inline typename Wide::F one_plus_exp(typename Wide::F x) {
    using F = typename Wide::F;
    const F t = Wide::clamp(x * -1.44269504f, -126.0f, 126.0f);
    const F shifted = t + 12582912.0f;  // at 1.5 * 2^23 the sum rounds to an integer in its low bits
    const F f = t - (shifted - 12582912.0f), p = ROUGH ? rough_power_of_two<Wide>(f) : power_of_two<Wide>(f);
    const auto exponent = reinterpret_cast<typename Wide::U>(shifted) << 23;
    return reinterpret_cast<F>(reinterpret_cast<typename Wide::U>(p) + exponent) + 1.0f;
}

// Adds what makes the upper 16 bits the nearest bfloat16, ties to even, and moves them down.
template <class Wide>
inline typename Wide::U bfloat16_bits(typename Wide::F x) {
    const auto u = reinterpret_cast<typename Wide::U>(x);
    return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

// Over `pixels` pixels, of x - shift and of its square: float64 [channels] each.
template <class Wide, class T>
void sum_channels(const T* x, size_t channels, const float* shift, double* sums, double* squares, size_t pixels) {
    for (size_t c = 0; c < channels; c++) sums[c] = squares[c] = 0.0;
    for (size_t start = 0; start < pixels; start += ROWS) {
        const size_t end = start + ROWS < pixels ? start + ROWS : pixels;
        for (size_t c = 0; c < channels; c += Wide::lanes) {
            const size_t count = channels - c;
            const typename Wide::F away = load_some<Wide>(reinterpret_cast<const F32*>(shift + c), count);
            typename Wide::F sum = {}, square = {}, other_sum = {}, other_square = {};
            size_t p = start;
            for (; p + 2 <= end; p += 2) {  // two chains, since one would wait for its own additions
                const typename Wide::F d = load_some<Wide>(x + p * channels + c, count) - away;
                const typename Wide::F e = load_some<Wide>(x + (p + 1) * channels + c, count) - away;
                sum += d;
                other_sum += e;
                square = Wide::multiply_add(d, d, square);
                other_square = Wide::multiply_add(e, e, other_square);
            }
            if (p < end) {
                const typename Wide::F d = load_some<Wide>(x + p * channels + c, count) - away;
                sum += d;
                square = Wide::multiply_add(d, d, square);
            }
            sum += other_sum;
            square += other_square;
            for (size_t i = 0; i < Wide::lanes && i < count; i++) {
                sums[c + i] += static_cast<double>(sum[i]);
                squares[c + i] += static_cast<double>(square[i]);
            }
        }
    }
}

template <class T>
inline T* of_sample(const GroupNormJob& job, const void* all, size_t sample) {
    return static_cast<T*>(const_cast<void*>(all)) + sample * job.pixels * job.channels;
}

// What is subtracted from every channel before it is squared: its group's mean over the first pixels, since a shift near
// the mean keeps the difference of squares from cancelling.
template <class Wide, class T>
void find_shift(const GroupNormJob& job, const T* x, float* shift) {
    static thread_local double sums[2 * MAX_CHANNELS];
    const size_t each = job.channels / job.groups, rows = SHIFT_ROWS < job.pixels ? SHIFT_ROWS : job.pixels;
    for (size_t c = 0; c < job.channels; c++) shift[c] = 0.0f;
    sum_channels<Wide>(x, job.channels, shift, sums, sums + job.channels, rows);
    for (size_t c = 0; c < job.channels; c += each) {
        double total = 0.0;
        for (size_t i = c; i < c + each; i++) total += sums[i];
        for (size_t i = c; i < c + each; i++) shift[i] = static_cast<float>(total / static_cast<double>(rows * each));
    }
}

template <class Wide, class T>
void sums_of(const GroupNormJob& job, size_t sample, size_t block, double* sums) {
    static thread_local float shift[MAX_CHANNELS];
    const T* x = of_sample<const T>(job, job.input, sample);
    find_shift<Wide>(job, x, shift);
    const Pixels pixels = pixels_of(job, block);
    double* own = sums + block * 2 * job.channels;
    sum_channels<Wide>(x + pixels.first * job.channels, job.channels, shift, own, own + job.channels,
                       pixels.last - pixels.first);
}

// What is subtracted from every channel and what it is multiplied with, and both with weight and bias in them:
// (x - mean) inverse weight + bias = x slope + offset.
struct Affine {
    alignas(64) float slope[MAX_CHANNELS], offset[MAX_CHANNELS], mean[MAX_CHANNELS], inverse[MAX_CHANNELS];
};

template <class Wide, class T>
void find_affine(const GroupNormJob& job, size_t sample, const double* sums, Affine& affine) {
    const size_t channels = job.channels, each = channels / job.groups, blocks = blocks_per_sample(job);
    float* shift = affine.offset;
    find_shift<Wide>(job, of_sample<const T>(job, job.input, sample), shift);
    for (size_t c = 0; c < channels; c += each) {
        double sum = 0.0, square = 0.0;
        for (size_t block = 0; block < blocks; block++)
            for (size_t i = c; i < c + each; i++) {
                sum += sums[2 * block * channels + i];
                square += sums[(2 * block + 1) * channels + i];
            }
        const double number = static_cast<double>(job.pixels * each), away = sum / number;
        double variance = square / number - away * away;
        if (variance < 0.0) variance = 0.0;  // NaN stays
        const double mean = static_cast<double>(shift[c]) + away, inverse = 1.0 / sqrt(variance + job.eps);
        for (size_t i = c; i < c + each; i++) {
            const double slope = inverse * static_cast<double>(job.weight[i]);
            affine.slope[i] = static_cast<float>(slope);
            affine.offset[i] = static_cast<float>(static_cast<double>(job.bias[i]) - mean * slope);
            affine.mean[i] = static_cast<float>(mean);
            affine.inverse[i] = static_cast<float>(inverse);
        }
    }
}

template <class Wide, class T, bool SILU>
void apply_to(const GroupNormJob& job, size_t sample, size_t block, const double* sums) {
    static thread_local Affine affine;
    find_affine<Wide, T>(job, sample, sums, affine);
    const T* x = of_sample<const T>(job, job.input, sample);
    T* out = of_sample<T>(job, job.out, sample);
    const size_t channels = job.channels;
    const Pixels pixels = pixels_of(job, block);
    for (size_t p = pixels.first; p < pixels.last; p++)
        for (size_t c = 0; c < channels; c += Wide::lanes) {
            const size_t i = p * channels + c, count = channels - c;
            const auto slope = load_some<Wide>(reinterpret_cast<const F32*>(affine.slope + c), count);
            const auto offset = load_some<Wide>(reinterpret_cast<const F32*>(affine.offset + c), count);
            const auto y = Wide::multiply_add(load_some<Wide>(x + i, count), slope, offset);
            store_some<Wide>(out + i, SILU ? Wide::silu(y, T{}) : y, count);
        }
}

// The gradient at z, before SiLU, from that at SiLU(z).
template <class Wide, bool SILU>
inline typename Wide::F through_silu(typename Wide::F gradient, typename Wide::F z) {
    if (!SILU) return gradient;
    const typename Wide::F s = Wide::sigmoid(z);
    return gradient * s * Wide::multiply_add(z, 1.0f - s, typename Wide::F{} + 1.0f);
}

// Gradients of one sample: with x' = (x - mean) inverse and dz = through_silu,
// of the bias sum dz, of the weight sum dz x', of x inverse (weight dz - m0 - x' m1), where m0 and m1 are the group's
// means of weight dz and of weight dz x'.
template <class Wide, class T, bool SILU>
void gradient_of(const GroupNormGradientJob& job, size_t sample, const double* of_pixels) {
    static thread_local Affine affine;
    static thread_local struct {
        alignas(64) float factor[MAX_CHANNELS], constant[MAX_CHANNELS];  // of x in its gradient
        alignas(64) double bias[MAX_CHANNELS], weight[MAX_CHANNELS];
    } sums;
    using F = typename Wide::F;
    const GroupNormJob& norm = job.norm;
    const size_t channels = norm.channels, each = channels / norm.groups;
    const T* x = of_sample<const T>(norm, norm.input, sample);
    const T* gradient = of_sample<const T>(norm, job.gradient, sample);
    T* out = of_sample<T>(norm, norm.out, sample);
    find_affine<Wide, T>(norm, sample, of_pixels, affine);
    const auto of = [](const float* all, size_t c, size_t count) {
        return load_some<Wide>(reinterpret_cast<const F32*>(all + c), count);
    };
    for (size_t c = 0; c < channels; c += Wide::lanes) {
        const size_t count = channels - c, lanes = count < Wide::lanes ? count : Wide::lanes;
        const F slope = of(affine.slope, c, count), offset = of(affine.offset, c, count);
        const F mean = of(affine.mean, c, count);
        for (size_t i = 0; i < lanes; i++) sums.bias[c + i] = sums.weight[c + i] = 0.0;
        for (size_t start = 0; start < norm.pixels; start += ROWS) {
            const size_t end = start + ROWS < norm.pixels ? start + ROWS : norm.pixels;
            F bias = {}, weight = {};
            for (size_t p = start; p < end; p++) {
                const size_t i = p * channels + c;
                const F v = load_some<Wide>(x + i, count);
                const F z = Wide::multiply_add(v, slope, offset);
                const F dz = through_silu<Wide, SILU>(load_some<Wide>(gradient + i, count), z);
                bias += dz;
                weight = Wide::multiply_add(dz, v - mean, weight);
            }
            for (size_t i = 0; i < lanes; i++) {
                sums.bias[c + i] += static_cast<double>(bias[i]);
                sums.weight[c + i] += static_cast<double>(weight[i]);
            }
        }
        for (size_t i = 0; i < lanes; i++) {
            sums.weight[c + i] *= static_cast<double>(affine.inverse[c + i]);
            job.weight_gradient[sample * channels + c + i] = static_cast<float>(sums.weight[c + i]);
            job.bias_gradient[sample * channels + c + i] = static_cast<float>(sums.bias[c + i]);
        }
    }
    for (size_t c = 0; c < channels; c += each) {
        double m0 = 0.0, m1 = 0.0;
        for (size_t i = c; i < c + each; i++) {
            m0 += static_cast<double>(norm.weight[i]) * sums.bias[i];
            m1 += static_cast<double>(norm.weight[i]) * sums.weight[i];
        }
        const double number = static_cast<double>(norm.pixels * each), inverse = static_cast<double>(affine.inverse[c]);
        const double factor = inverse * inverse * m1 / number;
        for (size_t i = c; i < c + each; i++) {
            sums.factor[i] = static_cast<float>(-factor);
            sums.constant[i] = static_cast<float>(static_cast<double>(affine.mean[i]) * factor - inverse * m0 / number);
        }
    }
    for (size_t p = 0; p < norm.pixels; p++)
        for (size_t c = 0; c < channels; c += Wide::lanes) {
            const size_t i = p * channels + c, count = channels - c;
            const F v = load_some<Wide>(x + i, count), slope = of(affine.slope, c, count);
            const F z = Wide::multiply_add(v, slope, of(affine.offset, c, count));
            const F dz = through_silu<Wide, SILU>(load_some<Wide>(gradient + i, count), z);
            const F rest = Wide::multiply_add(v, of(sums.factor, c, count), of(sums.constant, c, count));
            store_some<Wide>(out + i, Wide::multiply_add(dz, slope, rest), count);
        }
}

template <class Wide>
void any_sums(const GroupNormJob& job, size_t sample, size_t block, double* sums) {
    (job.type == Type::bf16 ? sums_of<Wide, BF16> : sums_of<Wide, F32>)(job, sample, block, sums);
}

template <class Wide>
void any_apply(const GroupNormJob& job, size_t sample, size_t block, const double* sums) {
    const bool half = job.type == Type::bf16;
    (half ? job.silu ? apply_to<Wide, BF16, true> : apply_to<Wide, BF16, false>
          : job.silu ? apply_to<Wide, F32, true> : apply_to<Wide, F32, false>)(job, sample, block, sums);
}

template <class Wide>
void any_gradient(const GroupNormGradientJob& job, size_t sample, const double* sums) {
    const bool half = job.norm.type == Type::bf16;
    (half ? job.norm.silu ? gradient_of<Wide, BF16, true> : gradient_of<Wide, BF16, false>
          : job.norm.silu ? gradient_of<Wide, F32, true> : gradient_of<Wide, F32, false>)(job, sample, sums);
}

template <class Wide>
constexpr GroupNorm group_norm_by() {
    return {any_sums<Wide>, any_apply<Wide>, any_gradient<Wide>};
}

}  // namespace
}  // namespace dpclean
