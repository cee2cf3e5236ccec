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

struct Pair {
    __m512 even, odd;  // of 32 channels
};

// What takes of pairs of bfloat16 the sum with these weights, each 0, 1 or -1.
inline __m512bh pair_of(int even, int odd) {
    const auto half = [](int x) { return x == 0 ? 0u : x > 0 ? 0x3f80u : 0xbf80u; };
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(half(odd) << 16 | half(even))));
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
    alignas(64) float s[8 * (MOST_TILES + 1) * WIDE];
};

struct Tile {
    size_t image, y, x;  // of the first pixel of its result

    Tile(const ConvolutionJob& job, size_t number) {
        const size_t across = (job.width + 1) / 2, down = (job.height + 1) / 2;
        image = number / (across * down), y = number / across % down * 2, x = number % across * 2;
    }
};

// Tiles of one row of an image, from `tile` on, to their places in each of the 16 matrices V, `stride` apart. Two columns
// of a tile are its neighbour's too, and are summed once.
template <bool UPSAMPLED>
void spread(const ConvolutionJob& job, const Tile& tile, size_t tiles, uint16_t* v, size_t inputs, size_t stride) {
    const size_t height = UPSAMPLED ? job.height / 2 : job.height, width = UPSAMPLED ? job.width / 2 : job.width;
    const uint16_t* image = static_cast<const uint16_t*>(job.input) + tile.image * height * width * job.inputs;
    const auto row = [&](size_t i) -> const uint16_t* {
        const size_t y = tile.y + i - 1;  // above the image it is huge
        return y < job.height ? image + (UPSAMPLED ? y / 2 : y) * width * job.inputs : nullptr;
    };
    const uint16_t* rows[4] = {row(0), row(1), row(2), row(3)};
    const __m512bh even = pair_of(1, 0), odd = pair_of(0, 1);
    for (size_t i = 0; i < 4; i++) {
        if (is_zero<UPSAMPLED>(4 * i)) continue;
        const uint16_t *one = rows[i == 0 ? 0 : i == 2 ? 2 : 1], *other = rows[i == 3 ? 3 : i == 2 ? 1 : 2];
        const int sign = i == 1 ? 1 : -1;
        const __m512bh other_even = pair_of(sign, 0), other_odd = pair_of(0, sign);
        for (size_t c = 0; c < job.inputs; c += WIDE) {
            const __mmask32 some = job.inputs - c < WIDE ? (1u << (job.inputs - c)) - 1 : ~0u;
            const auto column = [&](size_t x) -> Pair {
                Pair sum = {_mm512_setzero_ps(), _mm512_setzero_ps()};
                if (x >= job.width) return sum;  // left of the image it is huge
                const size_t at = (UPSAMPLED ? x / 2 : x) * job.inputs + c;
                if (one) {
                    const auto d = reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(some, one + at));
                    sum.even = _mm512_dpbf16_ps(sum.even, d, even), sum.odd = _mm512_dpbf16_ps(sum.odd, d, odd);
                }
                if (other) {
                    const auto d = reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(some, other + at));
                    sum.even = _mm512_dpbf16_ps(sum.even, d, other_even);
                    sum.odd = _mm512_dpbf16_ps(sum.odd, d, other_odd);
                }
                return sum;
            };
            Pair t[4] = {{}, {}, column(tile.x - 1), column(tile.x)};
            uint16_t* to = v + 4 * i * stride + c;
            for (size_t n = 0; n < tiles; n++, to += inputs) {
                t[0] = t[2], t[1] = t[3];
                t[2] = UPSAMPLED ? t[1] : column(tile.x + 2 * n + 1);
                t[3] = column(tile.x + 2 * n + 2);
                store(to, t[0] - t[2]);
                store(to + stride, t[1] + t[2]);
                if (!UPSAMPLED) store(to + 2 * stride, t[2] - t[1]);
                store(to + 3 * stride, t[1] - t[3]);
            }
        }
    }
}

// Of some tiles and WIDE channels a column of A' M, two rows `s_stride` apart: all of its places at once, so that M itself
// never leaves the registers.
template <bool UPSAMPLED>
inline void multiply(const uint16_t* v, size_t inputs, size_t v_stride, const uint16_t* u, size_t u_stride, float* s,
                     size_t s_stride) {
    constexpr size_t ROWS_OF_PLACES = UPSAMPLED ? 3 : 4, TILES = ROWS / ROWS_OF_PLACES;
    __m512 low[ROWS_OF_PLACES][TILES], high[ROWS_OF_PLACES][TILES];
#pragma GCC unroll 4
    for (size_t p = 0; p < ROWS_OF_PLACES; p++)
#pragma GCC unroll 4
        for (size_t r = 0; r < TILES; r++) low[p][r] = high[p][r] = _mm512_setzero_ps();
    for (size_t q = 0; q < inputs; q += 2, u += 2 * WIDE, v += 2) {
#pragma GCC unroll 4
        for (size_t p = 0; p < ROWS_OF_PLACES; p++) {
            const size_t i = UPSAMPLED && p == 2 ? 3 : p;
            const auto first = reinterpret_cast<__m512bh>(_mm512_load_si512(u + i * u_stride));
            const auto second = reinterpret_cast<__m512bh>(_mm512_load_si512(u + i * u_stride + WIDE));
#pragma GCC unroll 4
            for (size_t r = 0; r < TILES; r++) {
                int two;
                memcpy(&two, v + i * v_stride + r * inputs, sizeof two);
                const auto both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(two));
                low[p][r] = _mm512_dpbf16_ps(low[p][r], both, first);
                high[p][r] = _mm512_dpbf16_ps(high[p][r], both, second);
            }
        }
    }
    constexpr size_t LAST = ROWS_OF_PLACES - 1;
    const auto keep = [&](const __m512(&m)[ROWS_OF_PLACES][TILES], size_t r, float* to) {
        __m512 top = _mm512_add_ps(m[0][r], m[1][r]), bottom = _mm512_sub_ps(m[1][r], m[LAST][r]);
        if (!UPSAMPLED) top = _mm512_add_ps(top, m[2][r]), bottom = _mm512_sub_ps(bottom, m[2][r]);
        _mm512_store_ps(to, top);
        _mm512_store_ps(to + s_stride, bottom);
    };
#pragma GCC unroll 4
    for (size_t r = 0; r < TILES; r++) {
        keep(low, r, s + r * WIDE);
        keep(high, r, s + r * WIDE + 16);
    }
}

// Two results of 16 channels from the sums of the four columns, `stride` apart.
template <bool UPSAMPLED>
inline void gather(const float* s, size_t stride, __m512 (&y)[2]) {
    const __m512 s0 = _mm512_load_ps(s), s1 = _mm512_load_ps(s + stride), s3 = _mm512_load_ps(s + 3 * stride);
    y[0] = _mm512_add_ps(s0, s1), y[1] = _mm512_sub_ps(s1, s3);
    if (UPSAMPLED) return;
    const __m512 s2 = _mm512_load_ps(s + 2 * stride);
    y[0] = _mm512_add_ps(y[0], s2), y[1] = _mm512_sub_ps(y[1], s2);
}

inline __m512 widen_half(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// One tile's results for channels [k, k + WIDE); its sums are in the order [4 columns, 2 rows].
template <bool UPSAMPLED>
void finish(const ConvolutionJob& job, const Tile& tile, const float* s, size_t stride, size_t k) {
    const __m512 bias = _mm512_loadu_ps(job.bias + k), other_bias = _mm512_loadu_ps(job.bias + k + 16);
    for (size_t i = 0; i < 2 && tile.y + i < job.height; i++) {
        __m512 low[2], high[2];
        gather<UPSAMPLED>(s + i * stride, 2 * stride, low);
        gather<UPSAMPLED>(s + i * stride + 16, 2 * stride, high);
        for (size_t j = 0; j < 2 && tile.x + j < job.width; j++) {
            const size_t pixel = (tile.image * job.height + tile.y + i) * job.width + tile.x + j;
            const size_t at = pixel * job.outputs + k;
            __m512 a = _mm512_add_ps(low[j], bias), b = _mm512_add_ps(high[j], other_bias);
            if (job.added) {
                const __m512i added = _mm512_loadu_si512(static_cast<const uint16_t*>(job.added) + at);
                a = _mm512_add_ps(a, widen_half(_mm512_castsi512_si256(added)));
                b = _mm512_add_ps(b, widen_half(_mm512_extracti64x4_epi64(added, 1)));
            }
            _mm512_storeu_si512(static_cast<uint16_t*>(job.out) + at,
                                reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
        }
    }
}

template <bool UPSAMPLED>
void convolve_tiles(const ConvolutionJob& job, size_t first, size_t last) {
    static thread_local Scratch scratch;
    const size_t inputs = (job.inputs + WIDE - 1) / WIDE * WIDE;  // with zeros
    const size_t at_once = std::min(MOST_VALUES / inputs / ROWS * ROWS, MOST_TILES);
    const size_t v_stride = at_once * inputs + WIDE, s_stride = at_once * WIDE + WIDE;  // apart in the cache, too
    const size_t u_stride = 4 * job.outputs * inputs, across = (job.width + 1) / 2;
    constexpr size_t TILES = ROWS / (UPSAMPLED ? 3 : 4);
    uint16_t* const v = scratch.v;
    float* const s = scratch.s;
    const auto* filters = static_cast<const uint16_t*>(job.filters);
    for (size_t start = first; start < last; start += at_once) {
        const size_t tiles = std::min(at_once, last - start);
        for (size_t t = 0, some; t < tiles; t += some) {
            some = std::min(tiles - t, across - (start + t) % across);
            spread<UPSAMPLED>(job, Tile(job, start + t), some, v + t * inputs, inputs, v_stride);
        }
        for (size_t k = 0; k < job.outputs; k += WIDE) {
            for (size_t j = 0; j < 4; j++) {
                if (is_zero<UPSAMPLED>(j)) continue;
                const uint16_t* u = filters + (j * job.outputs + k) * inputs;
                for (size_t t = 0; t < tiles; t += TILES)
                    multiply<UPSAMPLED>(v + j * v_stride + t * inputs, inputs, 4 * v_stride, u, u_stride,
                                        s + 2 * j * s_stride + t * WIDE, s_stride);
            }
            for (size_t t = 0; t < tiles; t++)
                finish<UPSAMPLED>(job, Tile(job, start + t), s + t * WIDE, s_stride, k);
        }
    }
}

void convolve(const ConvolutionJob& job, size_t first, size_t last) {
    (job.upsampled ? convolve_tiles<true> : convolve_tiles<false>)(job, first, last);
}

}  // namespace

extern const Convolution CONVOLUTION_AVX512BF16 = {Type::bf16, 2, convolve};

}  // namespace dpclean
#endif
