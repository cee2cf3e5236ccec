// 3 x 3 convolutions by Winograd's minimal filtering F(4 x 4, 3 x 3), in float32 with AVX2.
//
// A tile is 6 x 6 pixels of the input for 4 x 4 of the result: d becomes V = B' d B, each of its 36 places is a product
// of matrices of its own, M = V U with U = G g G', and the result is A' M A (Lavin and Gray 2016, "Fast Algorithms for
// Convolutional Neural Networks"; B, G and A for the points 0, 1, -1, 2, -2). Every sum has one order, so a tile's
// result depends on its own pixels alone.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")

#include <immintrin.h>

#include <algorithm>

#include "kernels.h"

namespace dpclean {
namespace {

constexpr size_t EDGE = 4, SIDE = 6, PLACES = SIDE * SIDE;  // of a tile: its result, its input, what that becomes
constexpr size_t ROWS = 6, LANES = 8, WIDE = 2 * LANES;     // tiles and channels of the result in registers
constexpr size_t MOST_TILES = 96, MOST_VALUES = ROWS * MOST_INPUTS;  // at once, and of V in one place: for the cache
constexpr size_t APART = 16;  // values between what would else meet in the same lines of the cache

// Places of a tile that are zero, whatever the image, where each of its pixels stands four times: the third row is that
// of -1, which the pairs of equal pixels cancel, and the third column.
template <bool UPSAMPLED>
constexpr bool is_zero(size_t place) {
    return UPSAMPLED && (place / SIDE == 2 || place % SIDE == 2);
}

// Of a thread; zeros at first, as rows that nothing is put in are multiplied too.
struct Scratch {
    alignas(64) float v[PLACES * (MOST_VALUES + APART)];
    alignas(64) float m[PLACES * (MOST_TILES * WIDE + APART)];
};

struct Tile {
    size_t image, y, x;  // of the first pixel of its result

    Tile(const ConvolutionJob& job, size_t number) {
        const size_t across = (job.width + EDGE - 1) / EDGE, down = (job.height + EDGE - 1) / EDGE;
        image = number / (across * down), y = number / across % down * EDGE, x = number % across * EDGE;
    }
};

// B' d, of a row or column; place 2 of what is upsampled is left as it is.
template <bool UPSAMPLED>
inline void spread(const __m256 (&d)[SIDE], __m256 (&v)[SIDE]) {
    const __m256 two = _mm256_set1_ps(2), four = _mm256_set1_ps(4), five = _mm256_set1_ps(5);
    const __m256 one = _mm256_fnmadd_ps(four, d[2], d[4]), other = _mm256_fnmadd_ps(four, d[1], d[3]);
    const __m256 even = _mm256_sub_ps(d[4], d[2]), odd = _mm256_sub_ps(d[3], d[1]);
    v[0] = _mm256_fmadd_ps(four, d[0], _mm256_fnmadd_ps(five, d[2], d[4]));
    v[1] = _mm256_add_ps(one, other);
    if (!UPSAMPLED) v[2] = _mm256_sub_ps(one, other);
    v[3] = _mm256_fmadd_ps(two, odd, even);
    v[4] = _mm256_fnmadd_ps(two, odd, even);
    v[5] = _mm256_fmadd_ps(four, d[1], _mm256_fnmadd_ps(five, d[3], d[5]));
}

// A' m, of a row or column.
template <bool UPSAMPLED>
inline void gather(const __m256 (&m)[SIDE], __m256 (&y)[EDGE]) {
    const __m256 two = _mm256_set1_ps(2), four = _mm256_set1_ps(4), eight = _mm256_set1_ps(8);
    const __m256 near = UPSAMPLED ? m[1] : _mm256_add_ps(m[1], m[2]), far = _mm256_add_ps(m[3], m[4]);
    const __m256 near_odd = UPSAMPLED ? m[1] : _mm256_sub_ps(m[1], m[2]), far_odd = _mm256_sub_ps(m[3], m[4]);
    y[0] = _mm256_add_ps(_mm256_add_ps(m[0], near), far);
    y[1] = _mm256_fmadd_ps(two, far_odd, near_odd);
    y[2] = _mm256_fmadd_ps(four, far, near);
    y[3] = _mm256_add_ps(_mm256_fmadd_ps(eight, far_odd, near_odd), m[5]);
}

inline __m256i first_lanes(size_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(std::min(count, LANES))),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// A tile to its place in each of the matrices V, `stride` apart, of `inputs` channels with zeros.
template <bool UPSAMPLED>
void spread(const ConvolutionJob& job, const Tile& tile, float* v, size_t inputs, size_t stride) {
    constexpr size_t SCALE = UPSAMPLED ? 2 : 1;
    const size_t height = job.height / SCALE, width = job.width / SCALE;
    const float* image = static_cast<const float*>(job.input) + tile.image * height * width * job.inputs;
    const float* pixels[SIDE][SIDE];
    for (size_t i = 0; i < SIDE; i++)
        for (size_t j = 0; j < SIDE; j++) {
            const size_t y = tile.y + i - 1, x = tile.x + j - 1;  // above and left of the image they are huge
            const bool inside = y < job.height && x < job.width;
            pixels[i][j] = inside ? image + (y / SCALE * width + x / SCALE) * job.inputs : nullptr;
        }
    for (size_t c = 0; c < job.inputs; c += LANES, v += LANES) {
        const bool whole = job.inputs - c >= LANES;
        const __m256i some = first_lanes(job.inputs - c);
        __m256 half[SIDE][SIDE];
        for (size_t j = 0; j < SIDE; j++) {
            __m256 d[SIDE], t[SIDE];
            for (size_t i = 0; i < SIDE; i++) {
                const float* pixel = pixels[i][j];
                d[i] = !pixel  ? _mm256_setzero_ps()
                       : whole ? _mm256_loadu_ps(pixel + c)
                               : _mm256_maskload_ps(pixel + c, some);
            }
            spread<UPSAMPLED>(d, t);
            for (size_t i = 0; i < SIDE; i++)
                if (!is_zero<UPSAMPLED>(SIDE * i)) half[i][j] = t[i];
        }
        for (size_t i = 0; i < SIDE; i++) {
            if (is_zero<UPSAMPLED>(SIDE * i)) continue;
            __m256 t[SIDE];
            spread<UPSAMPLED>(half[i], t);
            for (size_t j = 0; j < SIDE; j++)
                if (!is_zero<UPSAMPLED>(j)) _mm256_store_ps(v + (SIDE * i + j) * stride, t[j]);
        }
    }
}

// M of ROWS tiles and WIDE channels in one place.
inline void multiply(const float* v, size_t inputs, size_t v_stride, const float* u, float* m) {
    __m256 low[ROWS], high[ROWS];
#pragma GCC unroll 6
    for (size_t r = 0; r < ROWS; r++) low[r] = high[r] = _mm256_setzero_ps();
    for (size_t c = 0; c < inputs; c++, u += WIDE, v++) {
        const __m256 first = _mm256_load_ps(u), second = _mm256_load_ps(u + LANES);
#pragma GCC unroll 6
        for (size_t r = 0; r < ROWS; r++) {
            const __m256 all = _mm256_broadcast_ss(v + r * v_stride);
            low[r] = _mm256_fmadd_ps(all, first, low[r]);
            high[r] = _mm256_fmadd_ps(all, second, high[r]);
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < ROWS; r++) {
        _mm256_store_ps(m + r * WIDE, low[r]);
        _mm256_store_ps(m + r * WIDE + LANES, high[r]);
    }
}

// One tile's results for channels [k, k + LANES), from M in places `stride` apart.
template <bool UPSAMPLED>
void finish(const ConvolutionJob& job, const Tile& tile, const float* m, size_t stride, size_t k) {
    const __m256 bias = _mm256_loadu_ps(job.bias + k);
    __m256 half[EDGE][SIDE];
    for (size_t j = 0; j < SIDE; j++) {
        if (is_zero<UPSAMPLED>(j)) continue;
        __m256 column[SIDE], y[EDGE];
        for (size_t i = 0; i < SIDE; i++)
            if (!is_zero<UPSAMPLED>(SIDE * i)) column[i] = _mm256_load_ps(m + (SIDE * i + j) * stride);
        gather<UPSAMPLED>(column, y);
        for (size_t i = 0; i < EDGE; i++) half[i][j] = y[i];
    }
    for (size_t i = 0; i < EDGE && tile.y + i < job.height; i++) {
        __m256 y[EDGE];
        gather<UPSAMPLED>(half[i], y);
        for (size_t j = 0; j < EDGE && tile.x + j < job.width; j++) {
            const size_t pixel = (tile.image * job.height + tile.y + i) * job.width + tile.x + j;
            const size_t at = pixel * job.outputs + k;
            __m256 result = _mm256_add_ps(y[j], bias);
            if (job.added) result = _mm256_add_ps(result, _mm256_loadu_ps(static_cast<const float*>(job.added) + at));
            _mm256_storeu_ps(static_cast<float*>(job.out) + at, result);
        }
    }
}

template <bool UPSAMPLED>
void convolve_tiles(const ConvolutionJob& job, size_t first, size_t last) {
    static thread_local Scratch scratch;
    const size_t inputs = (job.inputs + LANES - 1) / LANES * LANES;  // with zeros
    const size_t at_once = std::min(MOST_VALUES / inputs / ROWS * ROWS, MOST_TILES);
    const size_t v_stride = at_once * inputs + APART, m_stride = at_once * WIDE + APART;
    const auto* filters = static_cast<const float*>(job.filters);
    for (size_t start = first; start < last; start += at_once) {
        const size_t tiles = std::min(at_once, last - start);
        for (size_t t = 0; t < tiles; t++)
            spread<UPSAMPLED>(job, Tile(job, start + t), scratch.v + t * inputs, inputs, v_stride);
        for (size_t k = 0; k < job.outputs; k += WIDE) {
            for (size_t p = 0; p < PLACES; p++) {
                if (is_zero<UPSAMPLED>(p)) continue;
                const float* u = filters + (p * job.outputs + k) * job.inputs;
                for (size_t t = 0; t < tiles; t += ROWS)
                    multiply(scratch.v + p * v_stride + t * inputs, job.inputs, inputs, u,
                             scratch.m + p * m_stride + t * WIDE);
            }
            for (size_t t = 0; t < tiles; t++)
                for (size_t part = 0; part < WIDE; part += LANES)
                    finish<UPSAMPLED>(job, Tile(job, start + t), scratch.m + t * WIDE + part, m_stride, k + part);
        }
    }
}

void convolve(const ConvolutionJob& job, size_t first, size_t last) {
    (job.upsampled ? convolve_tiles<true> : convolve_tiles<false>)(job, first, last);
}

}  // namespace

extern const Convolution CONVOLUTION_AVX2 = {Type::f32, EDGE, convolve};

}  // namespace dpclean
#endif
