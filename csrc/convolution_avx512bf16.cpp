// 3 x 3 convolutions by Winograd's minimal filtering F(2 x 2, 3 x 3), with AVX-512's products of bfloat16 pairs.
//
// A tile is 4 x 4 pixels of the input for 2 x 2 of the result: d becomes V = B' d B, each of its 16 places is a product
// of matrices of its own, M = V U with U = G g G', and the result is A' M A. Sums are float32, V and U are bfloat16.
// Every sum has one order, so a tile's result depends on its own pixels alone.
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512bf16")

#include <immintrin.h>
#include <string.h>

#include <algorithm>

#include "kernels.h"

namespace dpclean {
namespace {

constexpr size_t PLACES = 16, ROWS = 12, WIDE = 32;  // of a tile; tiles and channels of the result in registers
constexpr size_t MOST_TILES = 96, MOST_VALUES = ROWS * MOST_INPUTS;  // at once, and of V in one place: for the cache

alignas(64) const uint16_t NOTHING[MOST_INPUTS] = {};

struct Pair {
    __m512 even, odd;  // of 32 channels
};

inline Pair widen(__m512i x) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000))))};
}

inline Pair operator+(Pair a, Pair b) { return {_mm512_add_ps(a.even, b.even), _mm512_add_ps(a.odd, b.odd)}; }
inline Pair operator-(Pair a, Pair b) { return {_mm512_sub_ps(a.even, b.even), _mm512_sub_ps(a.odd, b.odd)}; }

// 32 channels, the even ones first: the order in which the filters are packed too.
inline void store(uint16_t* to, Pair x) {
    _mm512_store_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(x.odd, x.even)));
}

// The nine places of a tile of an image with each pixel four times that are not zero: its second and third row, and
// column, are equal.
template <bool UPSAMPLED>
constexpr bool is_zero(size_t place) {
    return UPSAMPLED && (place / 4 == 2 || place % 4 == 2);
}

// Of a thread; zeros at first, as rows that nothing is put in are multiplied too.
struct Scratch {
    alignas(64) uint16_t v[PLACES * (MOST_VALUES + WIDE)];
    alignas(64) float m[PLACES * (MOST_TILES + 1) * WIDE];
};

struct Tile {
    size_t image, y, x;  // of the first pixel of its result

    Tile(const ConvolutionJob& job, size_t number) {
        const size_t across = (job.width + 1) / 2, down = (job.height + 1) / 2;
        image = number / (across * down), y = number / across % down * 2, x = number % across * 2;
    }
};

// One tile to its place in each of the 16 matrices V, `stride` apart.
template <bool UPSAMPLED>
void spread(const ConvolutionJob& job, const Tile& tile, uint16_t* v, size_t stride) {
    const size_t height = UPSAMPLED ? job.height / 2 : job.height, width = UPSAMPLED ? job.width / 2 : job.width;
    const uint16_t* image = static_cast<const uint16_t*>(job.input) + tile.image * height * width * job.inputs;
    const uint16_t* pixels[4][4];
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 4; j++) {
            const size_t y = tile.y + i - 1, x = tile.x + j - 1;  // above and left of the image they are huge
            const bool inside = y < job.height && x < job.width;
            const size_t pixel = UPSAMPLED ? y / 2 * width + x / 2 : y * width + x;
            pixels[i][j] = inside ? image + pixel * job.inputs : NOTHING;
        }
    for (size_t c = 0; c < job.inputs; c += WIDE) {
        const __mmask32 some = job.inputs - c < WIDE ? (1u << (job.inputs - c)) - 1 : ~0u;
        __m512i d[4][4];
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++)
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) d[i][j] = _mm512_maskz_loadu_epi16(some, pixels[i][j] + c);
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            if (is_zero<UPSAMPLED>(4 * i)) continue;
            Pair t[4];
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) {
                const Pair one = widen(d[i == 0 ? 0 : i == 2 ? 2 : 1][j]);
                const Pair other = widen(d[i == 3 ? 3 : i == 2 ? 1 : 2][j]);
                t[j] = i == 1 ? one + other : one - other;
            }
            uint16_t* to = v + 4 * i * stride + c;
            store(to, t[0] - t[2]);
            store(to + stride, t[1] + t[2]);
            if (!UPSAMPLED) store(to + 2 * stride, t[2] - t[1]);
            store(to + 3 * stride, t[1] - t[3]);
        }
    }
}

// m [ROWS, WIDE] = v [ROWS, 2 pairs] u [pairs, WIDE, 2].
inline void multiply(const uint16_t* v, size_t stride, const uint16_t* u, size_t pairs, float* m) {
    __m512 low[ROWS], high[ROWS];
#pragma GCC unroll 12
    for (size_t r = 0; r < ROWS; r++) low[r] = high[r] = _mm512_setzero_ps();
    const uint16_t *rows[3] = {v, v + 4 * stride, v + 8 * stride};
    for (size_t q = 0; q < pairs; q++, u += 2 * WIDE) {
        const auto first = reinterpret_cast<__m512bh>(_mm512_load_si512(u));
        const auto second = reinterpret_cast<__m512bh>(_mm512_load_si512(u + WIDE));
#pragma GCC unroll 12
        for (size_t r = 0; r < ROWS; r++) {
            int two;
            memcpy(&two, rows[r / 4] + r % 4 * stride + 2 * q, sizeof two);
            const auto both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(two));
            low[r] = _mm512_dpbf16_ps(low[r], both, first);
            high[r] = _mm512_dpbf16_ps(high[r], both, second);
        }
    }
#pragma GCC unroll 12
    for (size_t r = 0; r < ROWS; r++) {
        _mm512_store_ps(m + r * WIDE, low[r]);
        _mm512_store_ps(m + r * WIDE + 16, high[r]);
    }
}

// Four results, [2, 2], of 16 channels from the 16 matrices M, `stride` apart.
template <bool UPSAMPLED>
inline void gather(const float* m, size_t stride, __m512 (&y)[2][2]) {
    __m512 s[2][4];
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        if (is_zero<UPSAMPLED>(j)) continue;
        const __m512 m0 = _mm512_load_ps(m + j * stride), m1 = _mm512_load_ps(m + (4 + j) * stride);
        const __m512 m3 = _mm512_load_ps(m + (12 + j) * stride);
        s[0][j] = _mm512_add_ps(m0, m1), s[1][j] = _mm512_sub_ps(m1, m3);
        if (UPSAMPLED) continue;
        const __m512 m2 = _mm512_load_ps(m + (8 + j) * stride);
        s[0][j] = _mm512_add_ps(s[0][j], m2), s[1][j] = _mm512_sub_ps(s[1][j], m2);
    }
#pragma GCC unroll 2
    for (size_t i = 0; i < 2; i++) {
        y[i][0] = _mm512_add_ps(s[i][0], s[i][1]), y[i][1] = _mm512_sub_ps(s[i][1], s[i][3]);
        if (UPSAMPLED) continue;
        y[i][0] = _mm512_add_ps(y[i][0], s[i][2]), y[i][1] = _mm512_sub_ps(y[i][1], s[i][2]);
    }
}

inline __m512 widen_half(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// One tile's results for channels [k, k + WIDE).
template <bool UPSAMPLED>
void finish(const ConvolutionJob& job, const Tile& tile, const float* m, size_t stride, size_t k) {
    __m512 low[2][2], high[2][2];
    gather<UPSAMPLED>(m, stride, low);
    gather<UPSAMPLED>(m + 16, stride, high);
    const __m512 bias = _mm512_loadu_ps(job.bias + k), other_bias = _mm512_loadu_ps(job.bias + k + 16);
    for (size_t i = 0; i < 2 && tile.y + i < job.height; i++)
        for (size_t j = 0; j < 2 && tile.x + j < job.width; j++) {
            const size_t pixel = (tile.image * job.height + tile.y + i) * job.width + tile.x + j;
            const size_t at = pixel * job.outputs + k;
            __m512 a = _mm512_add_ps(low[i][j], bias), b = _mm512_add_ps(high[i][j], other_bias);
            if (job.added) {
                const __m512i added = _mm512_loadu_si512(static_cast<const uint16_t*>(job.added) + at);
                a = _mm512_add_ps(a, widen_half(_mm512_castsi512_si256(added)));
                b = _mm512_add_ps(b, widen_half(_mm512_extracti64x4_epi64(added, 1)));
            }
            _mm512_storeu_si512(static_cast<uint16_t*>(job.out) + at,
                                reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
        }
}

template <bool UPSAMPLED>
void convolve_tiles(const ConvolutionJob& job, size_t first, size_t last) {
    static thread_local Scratch scratch;
    const size_t inputs = (job.inputs + WIDE - 1) / WIDE * WIDE;  // with zeros
    const size_t at_once = std::min(MOST_VALUES / inputs / ROWS * ROWS, MOST_TILES);
    const size_t v_stride = at_once * inputs + WIDE, m_stride = at_once * WIDE + WIDE;  // apart in the cache, too
    uint16_t* const v = scratch.v;
    float* const m = scratch.m;
    const auto* filters = static_cast<const uint16_t*>(job.filters);
    for (size_t start = first; start < last; start += at_once) {
        const size_t tiles = std::min(at_once, last - start);
        for (size_t t = 0; t < tiles; t++)
            spread<UPSAMPLED>(job, Tile(job, start + t), v + t * inputs, v_stride);
        for (size_t k = 0; k < job.outputs; k += WIDE) {
            for (size_t place = 0; place < PLACES; place++) {
                if (is_zero<UPSAMPLED>(place)) continue;
                const uint16_t* u = filters + (place * job.outputs + k) * inputs;
                for (size_t t = 0; t < tiles; t += ROWS)
                    multiply(v + place * v_stride + t * inputs, inputs, u, inputs / 2,
                             m + place * m_stride + t * WIDE);
            }
            for (size_t t = 0; t < tiles; t++)
                finish<UPSAMPLED>(job, Tile(job, start + t), m + t * WIDE, m_stride, k);
        }
    }
}

void convolve(const ConvolutionJob& job, size_t first, size_t last) {
    (job.upsampled ? convolve_tiles<true> : convolve_tiles<false>)(job, first, last);
}

}  // namespace

extern const Convolve CONVOLVE_AVX512BF16 = convolve;

}  // namespace dpclean
#endif
