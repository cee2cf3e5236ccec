// The AVX2 kernel (with F16C): eight blocks at a time.
#if defined(__x86_64__)
#pragma GCC target("avx2,f16c")

#include <immintrin.h>

#include "tiles.h"

namespace dpclean {
namespace {

constexpr size_t LANES = 8;

// Lambdas and implicit constructors do not get the pragma's target, so everything here is a plain function.
inline __m256i both_lanes(__m128i x) { return _mm256_broadcastsi128_si256(x); }
inline __m256i rotate16(__m256i x) {
    return _mm256_shuffle_epi8(x, both_lanes(_mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)));
}
inline __m256i rotate8(__m256i x) {
    return _mm256_shuffle_epi8(x, both_lanes(_mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14)));
}

template <int R>
inline __m256i rotate(__m256i x) {
    return _mm256_or_si256(_mm256_slli_epi32(x, R), _mm256_srli_epi32(x, 32 - R));
}

inline void quarter(__m256i& a, __m256i& b, __m256i& c, __m256i& d) {
    a = _mm256_add_epi32(a, b); d = rotate16(_mm256_xor_si256(d, a));
    c = _mm256_add_epi32(c, d); b = rotate<12>(_mm256_xor_si256(b, c));
    a = _mm256_add_epi32(a, b); d = rotate8(_mm256_xor_si256(d, a));
    c = _mm256_add_epi32(c, d); b = rotate<7>(_mm256_xor_si256(b, c));
}

inline __m256i all(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }

inline void diagonals(__m256i v[16]) {
    quarter(v[0], v[5], v[10], v[15]);
    quarter(v[1], v[6], v[11], v[12]);
    quarter(v[2], v[7], v[8], v[13]);
    quarter(v[3], v[4], v[9], v[14]);
}

inline void double_round(__m256i v[16]) {
    quarter(v[0], v[4], v[8], v[12]);
    quarter(v[1], v[5], v[9], v[13]);
    quarter(v[2], v[6], v[10], v[14]);
    quarter(v[3], v[7], v[11], v[15]);
    diagonals(v);
}

// Eight registers of eight 32-bit lanes, lane b of register j to lane j of register b.
inline void transpose(__m256i p[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi32(p[2 * i], p[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi32(p[2 * i], p[2 * i + 1]);
    }
    for (int half = 0; half < 2; half++)
        for (int i = 0; i < 2; i++) {
            b[4 * half + 2 * i] = _mm256_unpacklo_epi64(a[4 * half + i], a[4 * half + 2 + i]);
            b[4 * half + 2 * i + 1] = _mm256_unpackhi_epi64(a[4 * half + i], a[4 * half + 2 + i]);
        }
    for (int i = 0; i < 4; i++) {
        p[i] = _mm256_permute2x128_si256(b[i], b[4 + i], 0x20);
        p[4 + i] = _mm256_permute2x128_si256(b[i], b[4 + i], 0x31);
    }
}

struct Words {
    using Vector = __m256i;
    static constexpr size_t LANES = 8;
    static __m256i all(uint32_t x) { return dpclean::all(x); }
    static __m256i load(const void* p) { return dpclean::load(p); }
    static void quarter(__m256i& a, __m256i& b, __m256i& c, __m256i& d) { dpclean::quarter(a, b, c, d); }
    static void double_round(__m256i v[16]) { dpclean::double_round(v); }
    // With bit set in the lanes whose sum is below share, which is not 0.
    static __m256i marked(__m256i marks, __m256i x, __m256i y, uint32_t share, uint32_t bit) {
        const __m256i sum = _mm256_add_epi32(x, y), most = dpclean::all(share - 1);
        const __m256i holds = _mm256_cmpeq_epi32(_mm256_max_epu32(sum, most), most);
        return _mm256_or_si256(marks, _mm256_and_si256(holds, dpclean::all(bit)));
    }
};

struct Picker {
    const int* entries;
    __m256i m, rest, mask;
};

inline Picker picker(const Table& t) {
    return {reinterpret_cast<const int*>(t.entry), all(t.m), all(32 - t.m), all((1u << t.m) - 1)};
}

// Columns of eight blocks for one of their words; `nearest` falls below 2^m where r = t.
inline __m256i pick(const Picker& p, const uint32_t* words, __m256i& nearest) {
    const __m256i u = load(words), us = _mm256_sllv_epi32(u, p.m), c = _mm256_srlv_epi32(u, p.rest);
    const __m256i entry = _mm256_i32gather_epi32(p.entries, c, 4);
    nearest = _mm256_min_epu32(nearest, _mm256_sub_epi32(entry, us));
    // us >= entry where the larger of the two is us.
    const __m256i alias = _mm256_cmpeq_epi32(_mm256_max_epu32(us, entry), us);
    return _mm256_blendv_epi8(c, _mm256_and_si256(entry, p.mask), alias);
}

inline __m256i pick_two(const Picker& p, const uint32_t* words, __m256i& nearest) {
    const __m256i even = pick(p, words, nearest), odd = pick(p, words + LANES, nearest);
    return _mm256_or_si256(even, _mm256_slli_epi32(odd, 16));
}

inline void finish(const NoiseJob& job, const Picker& p, const Blocks& blocks, size_t t, const uint32_t* pairs,
                   __m256i nearest, uint16_t* picks) {
    __m256i rows[8];
    for (size_t j = 0; j < 8; j++) rows[j] = load(pairs + LANES * j);
    transpose(rows);
    for (size_t b = 0; b < LANES; b++) store(picks + 16 * (t + b), rows[b]);
    const __m256i undecided = _mm256_cmpeq_epi32(_mm256_srlv_epi32(nearest, p.m), _mm256_setzero_si256());
    if (!_mm256_testz_si256(undecided, undecided))
        for (size_t b = t; b < t + LANES; b++)
            redraw(job, blocks.counter[b], {blocks.low[b], blocks.high[b]}, picks + 16 * b);
}

// ---- conversions of 16 samples

struct Odd {  // 2 n - 255 of the even and of the odd samples, as float
    __m256 even, odd;
};

inline Odd odd_numbers(const uint8_t* x, const uint16_t* picks, __m256i bias) {
    const __m256i grey = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
    const __m256i n = _mm256_add_epi16(grey, load(picks));
    const __m256i v = _mm256_sub_epi16(_mm256_add_epi16(n, n), bias);
    return {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 16), 16)),
            _mm256_cvtepi32_ps(_mm256_srai_epi32(v, 16))};
}

// Adds what makes the upper 16 bits the nearest bfloat16, ties to even.
inline __m256i rounded(__m256 v) {
    const __m256i u = _mm256_castps_si256(v);
    const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), lsb);
}

inline void put(Odd v, BF16* out) {
    store(out, _mm256_blend_epi16(_mm256_srli_epi32(rounded(v.even), 16), rounded(v.odd), 0xaa));
}

inline void put(Odd v, F16* out) {
    const __m256i even = _mm256_cvtepu16_epi32(_mm256_cvtps_ph(v.even, _MM_FROUND_TO_NEAREST_INT));
    const __m256i odd = _mm256_cvtepu16_epi32(_mm256_cvtps_ph(v.odd, _MM_FROUND_TO_NEAREST_INT));
    store(out, _mm256_or_si256(even, _mm256_slli_epi32(odd, 16)));
}

inline void put(Odd v, F32* out) {
    const __m256 low = _mm256_unpacklo_ps(v.even, v.odd), high = _mm256_unpackhi_ps(v.even, v.odd);
    store(out, _mm256_castps_si256(_mm256_permute2f128_ps(low, high, 0x20)));
    store(out + 8, _mm256_castps_si256(_mm256_permute2f128_ps(low, high, 0x31)));
}

// ---- the way back

inline void widened(const BF16* from, __m256& even, __m256& odd) {
    const __m256i v = load(from);
    even = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
    odd = _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
}

inline void widened(const F16* from, __m256& even, __m256& odd) {
    const __m256i v = load(from);
    const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff)), high = _mm256_srli_epi32(v, 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
    even = _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
    odd = _mm256_cvtph_ps(_mm256_extracti128_si256(packed, 1));
}

inline void widened(const F32* from, __m256& even, __m256& odd) {
    const __m256 a = _mm256_castsi256_ps(load(from)), b = _mm256_castsi256_ps(load(from + 8));
    const __m256 low = _mm256_permute2f128_ps(a, b, 0x20), high = _mm256_permute2f128_ps(a, b, 0x31);
    even = _mm256_shuffle_ps(low, high, 0x88);
    odd = _mm256_shuffle_ps(low, high, 0xdd);
}

struct Constants {
    __m256 p, q;
    bool reads_input;
};

inline Constants constants(const Inverse& i) {
    return {_mm256_set1_ps(i.p), _mm256_set1_ps(i.q), i.reads_input};
}

// Grey levels before saturation. NaN stays NaN in min(255, y) and becomes INT_MIN, which saturates to 0.
inline __m256i levels(const Constants& k, __m256 x, __m256 e, __m256i& largest) {
    largest = _mm256_max_epu32(largest, _mm256_and_si256(_mm256_castps_si256(e), all(0x7fffffff)));
    __m256 y = _mm256_mul_ps(k.q, e);
    if (k.reads_input) y = _mm256_add_ps(_mm256_mul_ps(k.p, x), y);
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(255.0f), _mm256_add_ps(y, _mm256_set1_ps(127.5f))));
}

// Sixteen samples as words in the order of each 128-bit lane: evens then odds.
template <class T>
inline __m256i words(const Constants& k, const T* input, const T* e, __m256i& largest) {
    __m256 x0 = _mm256_setzero_ps(), x1 = x0, e0, e1;
    if (k.reads_input) widened(input, x0, x1);
    widened(e, e0, e1);
    return _mm256_packs_epi32(levels(k, x0, e0, largest), levels(k, x1, e1, largest));
}

// Thirty-two samples as bytes, in order.
template <class T>
inline __m256i bytes(const Constants& k, const T* input, const T* e, __m256i& largest) {
    const __m256i interleave = _mm256_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15, 0, 4, 1, 5, 2, 6,
                                                3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    const __m256i both = _mm256_packus_epi16(words(k, input, e, largest), words(k, input + 16, e + 16, largest));
    return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(both, interleave), 0xd8);
}

inline bool all_finite(__m256i largest) {
    const __m256i bad = _mm256_cmpgt_epi32(largest, _mm256_set1_epi32(0x7f7fffff));
    return _mm256_testz_si256(bad, bad);
}

// Shuffles and masks that repeat in both 128-bit lanes; `spread`: byte (3 p + channel) mod 16 comes from pixel p.
inline __m256i spread(int channel) {
    alignas(16) uint8_t at[16];
    for (int p = 0; p < 16; p++) at[(3 * p + channel) % 16] = static_cast<uint8_t>(p);
    return both_lanes(_mm_load_si128(reinterpret_cast<const __m128i*>(at)));
}

inline __m256i every_third(int first) {
    alignas(16) uint8_t on[16];
    for (int i = 0; i < 16; i++) on[i] = i % 3 == first ? 0xff : 0;
    return both_lanes(_mm_load_si128(reinterpret_cast<const __m128i*>(on)));
}

// Pixel p's word of this channel stands at position (3 p + channel) mod 8.
inline __m256i gathered(int channel) {
    alignas(16) uint8_t at[16];
    for (int p = 0; p < 8; p++) {
        at[2 * p] = static_cast<uint8_t>(2 * ((3 * p + channel) % 8));
        at[2 * p + 1] = static_cast<uint8_t>(at[2 * p] + 1);
    }
    return both_lanes(_mm_load_si128(reinterpret_cast<const __m128i*>(at)));
}

// Eight words of this pixel triple in the lower lane, eight of the pixels 8 further on in the upper.
template <class T>
inline __m256i two_runs(const T* p) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
                                   _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 24)), 1);
}

// Whether the images of this group's lanes are others than those of the group before.
inline bool changed(const Blocks& blocks, size_t t) {
    const __m256i low = _mm256_xor_si256(load(blocks.low + t), load(blocks.low + t - LANES));
    const __m256i high = _mm256_xor_si256(load(blocks.high + t), load(blocks.high + t - LANES));
    const __m256i any = _mm256_or_si256(low, high);
    return !_mm256_testz_si256(any, any);
}

struct Avx2 {
    // A pipeline of two stages: the look-ups of one group, which wait for loads, fill the gaps in the ChaCha rounds of
    // the next, which keep the vector ports busy.
    static void draw(const NoiseJob& job, const Blocks& blocks, size_t count, uint16_t* picks) {
        const Stream& s = job.stream;
        const Picker p = picker(job.table);
        alignas(32) uint32_t words[16 * LANES] = {};
        alignas(32) uint32_t pairs[8 * LANES];
        __m256i first[16];
        size_t t = 0;
        for (; t < count; t += LANES) {
            const __m256i start[16] = {all(EXPA),
                                       all(ND_3),
                                       all(TWO_BY),
                                       all(TE_K),
                                       all(s.key[0]),
                                       all(s.key[1]),
                                       all(s.key[2]),
                                       all(s.key[3]),
                                       all(s.key[4]),
                                       all(s.key[5]),
                                       all(s.key[6]),
                                       all(s.key[7]),
                                       load(blocks.counter + t),
                                       all(s.run),
                                       load(blocks.low + t),
                                       load(blocks.high + t)};
            // The counter, word 12, comes into the other three columns with the first diagonals: before, they differ
            // from group to group only where the image does.
            if (t == 0 || changed(blocks, t)) {
                for (int i = 0; i < 16; i++) first[i] = start[i];
                for (int i = 1; i < 4; i++) quarter(first[i], first[4 + i], first[8 + i], first[12 + i]);
            }
            __m256i v[16], nearest = all(~0u);
            for (int i = 0; i < 16; i++) v[i] = first[i];
            v[12] = start[12];
            quarter(v[0], v[4], v[8], v[12]);
            diagonals(v);
#pragma GCC unroll 4
            for (size_t round = 0; round < 8; round++) {
                store(pairs + LANES * round, pick_two(p, words + 2 * LANES * round, nearest));
                double_round(v);
            }
            if (t > 0) finish(job, p, blocks, t - LANES, pairs, nearest, picks);
            double_round(v);
            for (size_t i = 0; i < 16; i++) store(words + LANES * i, _mm256_add_epi32(v[i], start[i]));
        }
        __m256i nearest = all(~0u);
        for (size_t j = 0; j < 8; j++) store(pairs + LANES * j, pick_two(p, words + 2 * LANES * j, nearest));
        finish(job, p, blocks, t - LANES, pairs, nearest, picks);
    }

    template <class T>
    static void add(const NoiseJob& job, const uint8_t* x, const uint16_t* picks, size_t count, T* out) {
        const __m256i bias = _mm256_set1_epi16(static_cast<short>(255 + 2 * job.table.k));
        const __m256 a = _mm256_set1_ps(job.a);
        size_t i = 0;
        for (; i + 16 <= count; i += 16) {
            const Odd v = odd_numbers(x + i, picks + i, bias);
            put(Odd{_mm256_mul_ps(v.even, a), _mm256_mul_ps(v.odd, a)}, out + i);
        }
        add_each(job, x + i, picks + i, count - i, out + i);
    }

    static void add(const NoiseJob& job, const uint8_t* x, const uint16_t* picks, size_t count, int16_t* out) {
        const __m256i k = _mm256_set1_epi16(static_cast<short>(job.table.k));
        size_t i = 0;
        for (; i + 16 <= count; i += 16) {
            const __m256i grey = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i)));
            store(out + i, _mm256_sub_epi16(_mm256_add_epi16(grey, load(picks + i)), k));
        }
        add_each(job, x + i, picks + i, count - i, out + i);
    }

    static void split(const F32* pixels, size_t count, F32* out, size_t plane) { split_each(pixels, count, out, plane); }

    // Sixteen pixels a step: each 128-bit lane holds eight of them in three registers, and a channel's eight words
    // stand in eight different positions, so two blends and one shuffle make a plane.
    template <class T>
    static void split(const T* pixels, size_t count, T* out, size_t plane) {
        static_assert(sizeof(T) == 2);
        const __m256i order0 = gathered(0), order1 = gathered(1), order2 = gathered(2);
        size_t i = 0;
        for (; i + 16 <= count; i += 16) {
            const __m256i x = two_runs(pixels + 3 * i), y = two_runs(pixels + 3 * i + 8), z = two_runs(pixels + 3 * i + 16);
            const __m256i c0 = _mm256_blend_epi16(_mm256_blend_epi16(x, y, 0x92), z, 0x24);
            const __m256i c1 = _mm256_blend_epi16(_mm256_blend_epi16(x, y, 0x24), z, 0x49);
            const __m256i c2 = _mm256_blend_epi16(_mm256_blend_epi16(x, y, 0x49), z, 0x92);
            store(out + i, _mm256_shuffle_epi8(c0, order0));
            store(out + plane + i, _mm256_shuffle_epi8(c1, order1));
            store(out + 2 * plane + i, _mm256_shuffle_epi8(c2, order2));
        }
        split_each(pixels + 3 * i, count - i, out + i, plane);
    }

    template <class T>
    static bool invert(const Inverse& inverse, const T* input, const T* e, size_t count, uint8_t* out) {
        const Constants k = constants(inverse);
        __m256i largest = _mm256_setzero_si256();
        size_t i = 0;
        for (; i + 32 <= count; i += 32) {
            if (i % 64 == 0) prefetch_samples(input + i + AHEAD, e + i + AHEAD, out + i + AHEAD);
            store(out + i, bytes(k, input + i, e + i, largest));
        }
        return all_finite(largest) & invert_each(inverse, input + i, e + i, count - i, out + i);
    }

    // Thirty-two pixels a step. In a lane of 16 pixels each channel is shuffled once to the residue that its bytes
    // have in all three output registers; blends then choose.
    template <class T>
    static bool invert_planar(const Inverse& inverse, const T* input, size_t input_plane, const T* e, size_t e_plane,
                              size_t count, uint8_t* out) {
        const Constants k = constants(inverse);
        __m256i largest = _mm256_setzero_si256();
        const __m256i spread0 = spread(0), spread1 = spread(1), spread2 = spread(2);
        const __m256i third0 = every_third(0), third1 = every_third(1), third2 = every_third(2);
        size_t i = 0;
        for (; i + 32 <= count; i += 32) {
            if (i % 64 == 0) prefetch_planes(input, input_plane, e, e_plane, i, out);
            const __m256i r = _mm256_shuffle_epi8(bytes(k, input + i, e + i, largest), spread0);
            const __m256i g = _mm256_shuffle_epi8(
                bytes(k, input + input_plane + i, e + e_plane + i, largest), spread1);
            const __m256i b = _mm256_shuffle_epi8(
                bytes(k, input + 2 * input_plane + i, e + 2 * e_plane + i, largest), spread2);
            // Byte i of register j belongs to channel (16 j + i) mod 3 = (j + i) mod 3.
            const __m256i o0 = _mm256_blendv_epi8(_mm256_blendv_epi8(r, g, third1), b, third2);
            const __m256i o1 = _mm256_blendv_epi8(_mm256_blendv_epi8(r, g, third0), b, third1);
            const __m256i o2 = _mm256_blendv_epi8(_mm256_blendv_epi8(r, g, third2), b, third0);
            store(out + 3 * i, _mm256_permute2x128_si256(o0, o1, 0x20));
            store(out + 3 * i + 32, _mm256_blend_epi32(o2, o0, 0xf0));
            store(out + 3 * i + 64, _mm256_permute2x128_si256(o1, o2, 0x31));
        }
        return all_finite(largest) &
               invert_planes(inverse, input + i, input_plane, e + i, e_plane, count - i, out + 3 * i);
    }
};

}  // namespace

extern const Kernel AVX2 = {"avx2", noise<Avx2>, invert<Avx2>, &GROUP_NORM_AVX2, members<Words>,
                            &CONVOLUTION_AVX2};

}  // namespace dpclean
#endif
