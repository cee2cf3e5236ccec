// GroupNorm and SiLU of channels-last activations, and their gradients, for any vector width: each file that includes
// this has a `Wide` with the lanes, the loads and the stores; other arithmetic is the compiler's own on its vectors.
//
// Lanes are channels and every channel is summed down its pixels in one order, so a kernel's result depends on the
// sample and on (pixels, channels, groups) only: not on the batch, or which groups a thread was given.
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

// 1 + e^-x, relative error below 1e-6 for |x| < 8 and 8e-6 everywhere; NaN stays NaN. For kernels without an
// instruction that scales by a power of two.
template <class Wide>
inline typename Wide::F one_plus_exp(typename Wide::F x) {
    using F = typename Wide::F;
    const F t = Wide::clamp(x * -1.44269504f, -126.0f, 126.0f);
    const F shifted = t + 12582912.0f;  // at 1.5 * 2^23 the sum rounds to an integer in its low bits
    const F p = power_of_two<Wide>(t - (shifted - 12582912.0f));
    const auto exponent = reinterpret_cast<typename Wide::U>(shifted) << 23;
    return reinterpret_cast<F>(reinterpret_cast<typename Wide::U>(p) + exponent) + 1.0f;
}

// Adds what makes the upper 16 bits the nearest bfloat16, ties to even, and moves them down.
template <class Wide>
inline typename Wide::U bfloat16_bits(typename Wide::F x) {
    const auto u = reinterpret_cast<typename Wide::U>(x);
    return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

struct Sums {
    alignas(64) double sum[MAX_CHANNELS], square[MAX_CHANNELS];
};

// Over `pixels` pixels, of x - shift and of its square, channels [first, last).
template <class Wide, class T>
void sum_channels(const T* x, size_t channels, size_t first, size_t last, const float* shift, Sums& sums, size_t pixels) {
    for (size_t c = first; c < last; c++) sums.sum[c] = sums.square[c] = 0.0;
    for (size_t start = 0; start < pixels; start += ROWS) {
        const size_t end = start + ROWS < pixels ? start + ROWS : pixels;
        for (size_t c = first; c < last; c += Wide::lanes) {
            const size_t count = last - c;
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
                sums.sum[c + i] += static_cast<double>(sum[i]);
                sums.square[c + i] += static_cast<double>(square[i]);
            }
        }
    }
}

inline double total(const double* of, size_t first, size_t count) {
    double sum = 0.0;
    for (size_t i = first; i < first + count; i++) sum += of[i];
    return sum;
}

// What is subtracted from every channel and what it is multiplied with, and both with weight and bias in them:
// (x - mean) inverse weight + bias = x slope + offset.
struct Affine {
    alignas(64) float slope[MAX_CHANNELS], offset[MAX_CHANNELS], mean[MAX_CHANNELS], inverse[MAX_CHANNELS];
};

template <class Wide, class T>
void find_affine(const GroupNormJob& job, const T* x, size_t first_group, size_t last_group, Affine& affine) {
    static thread_local Sums sums;
    const size_t each = job.channels / job.groups, first = first_group * each, last = last_group * each;
    // A shift near the mean, that of the first pixels, keeps the squares' difference from cancelling.
    float* shift = affine.offset;
    for (size_t c = first; c < last; c++) shift[c] = 0.0f;
    const size_t rows = SHIFT_ROWS < job.pixels ? SHIFT_ROWS : job.pixels;
    sum_channels<Wide>(x, job.channels, first, last, shift, sums, rows);
    for (size_t c = first; c < last; c += each) {
        const float mean = static_cast<float>(total(sums.sum, c, each) / static_cast<double>(rows * each));
        for (size_t i = c; i < c + each; i++) shift[i] = mean;
    }
    sum_channels<Wide>(x, job.channels, first, last, shift, sums, job.pixels);
    for (size_t c = first; c < last; c += each) {
        const double number = static_cast<double>(job.pixels * each), away = total(sums.sum, c, each) / number;
        double variance = total(sums.square, c, each) / number - away * away;
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
void apply(const GroupNormJob& job, const T* x, size_t first, size_t last, const Affine& affine, T* out) {
    const size_t channels = job.channels;
    for (size_t p = 0; p < job.pixels; p++)
        for (size_t c = first; c < last; c += Wide::lanes) {
            const size_t i = p * channels + c, count = last - c;
            const auto slope = load_some<Wide>(reinterpret_cast<const F32*>(affine.slope + c), count);
            const auto offset = load_some<Wide>(reinterpret_cast<const F32*>(affine.offset + c), count);
            const auto y = Wide::multiply_add(load_some<Wide>(x + i, count), slope, offset);
            store_some<Wide>(out + i, SILU ? Wide::silu(y) : y, count);
        }
}

template <class Wide, class T>
void group_norm_of(const GroupNormJob& job, size_t sample, size_t first_group, size_t last_group) {
    static thread_local Affine affine;
    const size_t each = job.channels / job.groups, first = first_group * each, last = last_group * each;
    const T* x = static_cast<const T*>(job.input) + sample * job.pixels * job.channels;
    T* out = static_cast<T*>(job.out) + sample * job.pixels * job.channels;
    find_affine<Wide>(job, x, first_group, last_group, affine);
    if (job.silu)
        apply<Wide, T, true>(job, x, first, last, affine, out);
    else
        apply<Wide, T, false>(job, x, first, last, affine, out);
}

// The gradient at z, before SiLU, from that at SiLU(z).
template <class Wide, bool SILU>
inline typename Wide::F through_silu(typename Wide::F gradient, typename Wide::F z) {
    if (!SILU) return gradient;
    const typename Wide::F s = Wide::sigmoid(z);
    return gradient * s * Wide::multiply_add(z, 1.0f - s, typename Wide::F{} + 1.0f);
}

// Gradients of one sample, groups [first_group, last_group): with x' = (x - mean) inverse and dz = through_silu,
// of the bias sum dz, of the weight sum dz x', of x inverse (weight dz - m0 - x' m1), where m0 and m1 are the group's
// means of weight dz and of weight dz x'.
template <class Wide, class T, bool SILU>
void group_norm_gradient_of(const GroupNormGradientJob& job, size_t sample, size_t first_group, size_t last_group) {
    static thread_local Affine affine;
    static thread_local struct {
        alignas(64) float factor[MAX_CHANNELS], constant[MAX_CHANNELS];  // of x in its gradient
        alignas(64) double bias[MAX_CHANNELS], weight[MAX_CHANNELS];
    } sums;
    using F = typename Wide::F;
    const GroupNormJob& norm = job.norm;
    const size_t channels = norm.channels, each = channels / norm.groups;
    const size_t first = first_group * each, last = last_group * each, start_of = sample * norm.pixels * channels;
    const T* x = static_cast<const T*>(norm.input) + start_of;
    const T* gradient = static_cast<const T*>(job.gradient) + start_of;
    T* out = static_cast<T*>(norm.out) + start_of;
    find_affine<Wide>(norm, x, first_group, last_group, affine);
    const auto of = [](const float* all, size_t c, size_t count) {
        return load_some<Wide>(reinterpret_cast<const F32*>(all + c), count);
    };
    for (size_t c = first; c < last; c += Wide::lanes) {
        const size_t count = last - c, lanes = count < Wide::lanes ? count : Wide::lanes;
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
    for (size_t c = first; c < last; c += each) {
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
        for (size_t c = first; c < last; c += Wide::lanes) {
            const size_t i = p * channels + c, count = last - c;
            const F v = load_some<Wide>(x + i, count), slope = of(affine.slope, c, count);
            const F z = Wide::multiply_add(v, slope, of(affine.offset, c, count));
            const F dz = through_silu<Wide, SILU>(load_some<Wide>(gradient + i, count), z);
            const F rest = Wide::multiply_add(v, of(sums.factor, c, count), of(sums.constant, c, count));
            store_some<Wide>(out + i, Wide::multiply_add(dz, slope, rest), count);
        }
}

template <class Wide>
void group_norm_gradient(const GroupNormGradientJob& job, size_t sample, size_t first_group, size_t last_group) {
    const bool half = job.norm.type == Type::bf16;
    (half ? job.norm.silu ? group_norm_gradient_of<Wide, BF16, true> : group_norm_gradient_of<Wide, BF16, false>
          : job.norm.silu ? group_norm_gradient_of<Wide, F32, true> : group_norm_gradient_of<Wide, F32, false>)(
        job, sample, first_group, last_group);
}

template <class Wide>
void group_norm(const GroupNormJob& job, size_t sample, size_t first_group, size_t last_group) {
    if (job.type == Type::bf16)
        group_norm_of<Wide, BF16>(job, sample, first_group, last_group);
    else
        group_norm_of<Wide, F32>(job, sample, first_group, last_group);
}

}  // namespace
}  // namespace dpclean
