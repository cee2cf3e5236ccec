// The AVX-512 kernel (F, BW and VL): sixteen blocks at a time.
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512vl")

#include <immintrin.h>

#include "tiles.h"

namespace dpclean {
namespace {

constexpr size_t LANES = 16;

inline __m512i all(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }
inline void store(void* p, __m512i x) { _mm512_storeu_si512(p, x); }

inline void quarter(__m512i& a, __m512i& b, __m512i& c, __m512i& d) {
    a = _mm512_add_epi32(a, b); d = _mm512_rol_epi32(_mm512_xor_si512(d, a), 16);
    c = _mm512_add_epi32(c, d); b = _mm512_rol_epi32(_mm512_xor_si512(b, c), 12);
    a = _mm512_add_epi32(a, b); d = _mm512_rol_epi32(_mm512_xor_si512(d, a), 8);
    c = _mm512_add_epi32(c, d); b = _mm512_rol_epi32(_mm512_xor_si512(b, c), 7);
}

inline void diagonals(__m512i v[16]) {
    quarter(v[0], v[5], v[10], v[15]);
    quarter(v[1], v[6], v[11], v[12]);
    quarter(v[2], v[7], v[8], v[13]);
    quarter(v[3], v[4], v[9], v[14]);
}

inline void double_round(__m512i v[16]) {
    quarter(v[0], v[4], v[8], v[12]);
    quarter(v[1], v[5], v[9], v[13]);
    quarter(v[2], v[6], v[10], v[14]);
    quarter(v[3], v[7], v[11], v[15]);
    diagonals(v);
}

struct Words {
    using Vector = __m512i;
    static constexpr size_t LANES = 16;
    static __m512i all(uint32_t x) { return dpclean::all(x); }
    static __m512i load(const void* p) { return dpclean::load(p); }
    static void quarter(__m512i& a, __m512i& b, __m512i& c, __m512i& d) { dpclean::quarter(a, b, c, d); }
    static void double_round(__m512i v[16]) { dpclean::double_round(v); }
    // With bit set in the lanes whose sum is below share.
    static __m512i marked(__m512i marks, __m512i x, __m512i y, uint32_t share, uint32_t bit) {
        const __mmask16 holds = _mm512_cmplt_epu32_mask(_mm512_add_epi32(x, y), dpclean::all(share));
        return _mm512_mask_or_epi32(marks, holds, marks, dpclean::all(bit));
    }
};

// Which block of a group a lane has: so the last shuffle of the transposition leaves two consecutive blocks in a
// register.
inline __m512i lane_order() { return _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15); }

// Samples 2j and 2j + 1 of sixteen blocks in register j, to 16 samples a block in memory.
inline void store_blocks(const __m512i p[8], uint16_t* picks) {
    __m512i a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm512_unpacklo_epi32(p[2 * i], p[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(p[2 * i], p[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const int from = i / 2 * 4 + i % 2;
        b[2 * (i % 2) + i / 2 * 4] = _mm512_unpacklo_epi64(a[from], a[from + 2]);
        b[2 * (i % 2) + i / 2 * 4 + 1] = _mm512_unpackhi_epi64(a[from], a[from + 2]);
    }
    const __m512i lower = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i upper = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        store(picks + 32 * r, _mm512_permutex2var_epi64(b[r], lower, b[4 + r]));
        store(picks + 32 * (4 + r), _mm512_permutex2var_epi64(b[r], upper, b[4 + r]));
    }
}

struct Picker {
    const uint32_t* entries;
    __m512i m, rest, mask, above;
};

inline Picker picker(const Table& table) {
    return {table.entry, all(table.m), all(32 - table.m), all((1u << table.m) - 1), all(~0u << table.m)};
}

// Columns of sixteen blocks for one of their words; lanes with r = t lose their bit in `decided`.
inline __m512i pick(const Picker& p, const uint32_t* words, __mmask16& decided) {
    const __m512i u = load(words), us = _mm512_sllv_epi32(u, p.m), c = _mm512_srlv_epi32(u, p.rest);
    const __m512i entry = _mm512_i32gather_epi32(c, p.entries, 4);
    decided = _mm512_mask_test_epi32_mask(decided, _mm512_sub_epi32(entry, us), p.above);
    return _mm512_mask_and_epi32(c, _mm512_cmple_epu32_mask(entry, us), entry, p.mask);
}

inline __m512i pick_two(const Picker& p, const uint32_t* words, __mmask16& decided) {
    const __m512i even = pick(p, words, decided), odd = pick(p, words + LANES, decided);
    return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

inline void finish(const NoiseJob& job, const Blocks& blocks, size_t t, const uint32_t* pairs, __mmask16 decided,
                   uint16_t* picks) {
    __m512i rows[8];
    for (int j = 0; j < 8; j++) rows[j] = load(pairs + LANES * j);
    store_blocks(rows, picks + 16 * t);
    if (decided != 0xffff)
        for (size_t b = t; b < t + LANES; b++)
            redraw(job, blocks.counter[b], {blocks.low[b], blocks.high[b]}, picks + 16 * b);
}

// ---- conversions of 32 samples

struct Pair {  // of the even and of the odd samples
    __m512 even, odd;
};

constexpr int ODD_WORDS = static_cast<int>(0xaaaaaaaa);

// 2 n - 255, exactly: the words stand in the low bits of floats at 2^23, where floats are one apart.
inline Pair odd_numbers(__m256i x, __m512i picks, __m512 bias) {
    const __m512i n = _mm512_add_epi16(_mm512_cvtepu8_epi16(x), picks), twice = _mm512_add_epi16(n, n);
    const __m512i exponent = all(0x4b000000);
    const __m512i even = _mm512_ternarylogic_epi32(twice, all(0xffff), exponent, 0xea);  // (a & b) | c
    const __m512i odd = _mm512_or_si512(_mm512_srli_epi32(twice, 16), exponent);
    return {_mm512_sub_ps(_mm512_castsi512_ps(even), bias), _mm512_sub_ps(_mm512_castsi512_ps(odd), bias)};
}

// Adds what makes the upper 16 bits the nearest bfloat16, ties to even.
inline __m512i rounded(__m512 v) {
    const __m512i u = _mm512_castps_si512(v), up = _mm512_add_epi32(u, all(0x7fff));
    return _mm512_mask_add_epi32(up, _mm512_test_epi32_mask(u, all(0x10000)), up, all(1));
}

inline __m512i narrowed(Pair v, BF16) {
    return _mm512_mask_blend_epi16(ODD_WORDS, _mm512_srli_epi32(rounded(v.even), 16), rounded(v.odd));
}

inline __m512i narrowed(Pair v, F16) {
    const __m512i even = _mm512_cvtepu16_epi32(_mm512_cvtps_ph(v.even, _MM_FROUND_TO_NEAREST_INT));
    const __m512i odd = _mm512_cvtepu16_epi32(_mm512_cvtps_ph(v.odd, _MM_FROUND_TO_NEAREST_INT));
    return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

template <class T>
inline void put(Pair v, __mmask32 some, T* out) {
    _mm512_mask_storeu_epi16(out, some, narrowed(v, T{}));
}

inline void put(Pair v, __mmask32 some, F32* out) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, all(8));
    _mm512_mask_storeu_ps(out, static_cast<__mmask16>(some), _mm512_permutex2var_ps(v.even, low, v.odd));
    _mm512_mask_storeu_ps(out + 16, static_cast<__mmask16>(some >> 16), _mm512_permutex2var_ps(v.even, high, v.odd));
}

inline __mmask32 first_words(size_t count) { return count < 32 ? (1u << count) - 1 : ~0u; }

// ---- the way back

inline Pair widened(const BF16* from, __mmask32 some) {
    const __m512i v = _mm512_maskz_loadu_epi16(some, from);
    return {_mm512_castsi512_ps(_mm512_slli_epi32(v, 16)), _mm512_castsi512_ps(_mm512_and_si512(v, all(0xffff0000)))};
}

inline Pair widened(const F16* from, __mmask32 some) {
    const __m512i v = _mm512_maskz_loadu_epi16(some, from);
    return {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)), _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)))};
}

inline Pair widened(const F32* from, __mmask32 some) {
    const __m512 a = _mm512_maskz_loadu_ps(static_cast<__mmask16>(some), from);
    const __m512 b = _mm512_maskz_loadu_ps(static_cast<__mmask16>(some >> 16), from + 16);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return {_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, _mm512_add_epi32(even, all(1)), b)};
}

struct Constants {
    __m512 p, q;
    bool reads_input;
};

inline Constants constants(const Inverse& i) {
    return {_mm512_set1_ps(i.p), _mm512_set1_ps(i.q), i.reads_input};
}

// Grey levels before saturation. NaN stays NaN in min(255, y) and becomes INT_MIN, which saturates to 0.
inline __m512i levels(const Constants& k, __m512 x, __m512 e, __m512i& largest) {
    largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(e), all(0x7fffffff)));
    __m512 y = _mm512_mul_ps(k.q, e);
    if (k.reads_input) y = _mm512_add_ps(_mm512_mul_ps(k.p, x), y);
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_set1_ps(255.0f), _mm512_add_ps(y, _mm512_set1_ps(127.5f))));
}

// Thirty-two samples as words in the order of each 128-bit lane: evens then odds.
template <class T>
inline __m512i words(const Constants& k, const T* input, const T* e, __mmask32 some, __m512i& largest) {
    Pair x = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    if (k.reads_input) x = widened(input, some);
    const Pair prediction = widened(e, some);
    return _mm512_packs_epi32(levels(k, x.even, prediction.even, largest), levels(k, x.odd, prediction.odd, largest));
}

// Sixty-four samples as bytes, in order.
template <class T>
inline __m512i bytes(const Constants& k, const T* input, const T* e, __mmask64 some, __m512i& largest) {
    const __m512i interleave =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
    const __m512i low = words(k, input, e, static_cast<__mmask32>(some), largest);
    const __m512i high = words(k, input + 32, e + 32, static_cast<__mmask32>(some >> 32), largest);
    const __m512i both = _mm512_shuffle_epi8(_mm512_packus_epi16(low, high), interleave);
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), both);
}

inline __mmask64 first_bytes(size_t count) { return count < 64 ? (1ull << count) - 1 : ~0ull; }

inline bool all_finite(__m512i largest) { return _mm512_cmpge_epu32_mask(largest, all(0x7f800000)) == 0; }

// Whether the images of this group's lanes are others than those of the group before.
inline bool changed(const Blocks& blocks, size_t t) {
    return _mm512_cmpneq_epi32_mask(load(blocks.low + t), load(blocks.low + t - LANES)) |
           _mm512_cmpneq_epi32_mask(load(blocks.high + t), load(blocks.high + t - LANES));
}

struct Avx512 {
    // A pipeline of two stages: the look-ups of one group, which wait for loads, fill the gaps in the ChaCha rounds of
    // the next, which keep the vector ports busy.
    static void draw(const NoiseJob& job, const Blocks& blocks, size_t count, uint16_t* picks) {
        const Stream& s = job.stream;
        const Picker p = picker(job.table);
        const __m512i order = lane_order();
        alignas(64) uint32_t words[16 * LANES] = {};
        alignas(64) uint32_t pairs[8 * LANES];
        __m512i first[16];
        size_t t = 0;
        for (; t < count; t += LANES) {
            const __m512i start[16] = {all(EXPA),     all(ND_3),     all(TWO_BY),   all(TE_K),
                                       all(s.key[0]), all(s.key[1]), all(s.key[2]), all(s.key[3]),
                                       all(s.key[4]), all(s.key[5]), all(s.key[6]), all(s.key[7]),
                                       _mm512_permutexvar_epi32(order, load(blocks.counter + t)), all(s.run),
                                       _mm512_permutexvar_epi32(order, load(blocks.low + t)),
                                       _mm512_permutexvar_epi32(order, load(blocks.high + t))};
            // The counter, word 12, comes into the other three columns with the first diagonals: before, they differ
            // from group to group only where the image does.
            if (t == 0 || changed(blocks, t)) {
                for (int i = 0; i < 16; i++) first[i] = start[i];
                for (int i = 1; i < 4; i++) quarter(first[i], first[4 + i], first[8 + i], first[12 + i]);
            }
            __m512i v[16];
            for (int i = 0; i < 16; i++) v[i] = first[i];
            v[12] = start[12];
            __mmask16 decided = 0xffff;
            quarter(v[0], v[4], v[8], v[12]);
            diagonals(v);
#pragma GCC unroll 4
            for (int round = 0; round < 8; round++) {
                store(pairs + LANES * round, pick_two(p, words + 2 * LANES * round, decided));
                double_round(v);
            }
            if (t > 0) finish(job, blocks, t - LANES, pairs, decided, picks);
            double_round(v);
            for (int i = 0; i < 16; i++) store(words + LANES * i, _mm512_add_epi32(v[i], start[i]));
        }
        __mmask16 decided = 0xffff;
        for (int j = 0; j < 8; j++) store(pairs + LANES * j, pick_two(p, words + 2 * LANES * j, decided));
        finish(job, blocks, t - LANES, pairs, decided, picks);
    }

    template <class T>
    static void add(const NoiseJob& job, const uint8_t* x, const uint16_t* picks, size_t count, T* out) {
        const __m512 bias = _mm512_set1_ps(static_cast<float>(8388608 + 255 + 2 * job.table.k));
        const __m512 a = _mm512_set1_ps(job.a);
        for (size_t i = 0; i < count; i += 32) {
            const __mmask32 some = first_words(count - i);
            const __m512i z = _mm512_maskz_loadu_epi16(some, picks + i);
            const Pair v = odd_numbers(_mm256_maskz_loadu_epi8(some, x + i), z, bias);
            put(Pair{_mm512_mul_ps(v.even, a), _mm512_mul_ps(v.odd, a)}, some, out + i);
        }
    }

    static void add(const NoiseJob& job, const uint8_t* x, const uint16_t* picks, size_t count, int16_t* out) {
        const __m512i k = _mm512_set1_epi16(static_cast<short>(job.table.k));
        for (size_t i = 0; i < count; i += 32) {
            const __mmask32 some = first_words(count - i);
            const __m512i grey = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(some, x + i));
            const __m512i z = _mm512_maskz_loadu_epi16(some, picks + i);
            _mm512_mask_storeu_epi16(out + i, some, _mm512_sub_epi16(_mm512_add_epi16(grey, z), k));
        }
    }

    static void split(const F32* pixels, size_t count, F32* out, size_t plane) { split_each(pixels, count, out, plane); }

    // Thirty-two pixels a step, in three registers: a channel's words stand in 32 different positions, so two blends
    // and one permutation make a plane.
    template <class T>
    static void split(const T* pixels, size_t count, T* out, size_t plane) {
        static_assert(sizeof(T) == 2);
        __m512i order[3];
        for (int channel = 0; channel < 3; channel++) {
            alignas(64) uint16_t at[32];
            for (int p = 0; p < 32; p++) at[p] = static_cast<uint16_t>((3 * p + channel) % 32);
            order[channel] = load(at);
        }
        constexpr __mmask32 third0 = 0x49249249, third1 = 0x92492492, third2 = 0x24924924;  // positions i mod 3
        for (size_t i = 0; i < count; i += 32) {
            const size_t words = 3 * (count - i);
            const __mmask32 some = first_words(count - i);
            const __m512i x = _mm512_maskz_loadu_epi16(first_words(words), pixels + 3 * i);
            const __m512i y = words > 32 ? _mm512_maskz_loadu_epi16(first_words(words - 32), pixels + 3 * i + 32) : x;
            const __m512i z = words > 64 ? _mm512_maskz_loadu_epi16(first_words(words - 64), pixels + 3 * i + 64) : x;
            // Position i of register j belongs to channel (32 j + i) mod 3 = (i - j) mod 3.
            const __m512i c0 = _mm512_mask_blend_epi16(third2, _mm512_mask_blend_epi16(third1, x, y), z);
            const __m512i c1 = _mm512_mask_blend_epi16(third0, _mm512_mask_blend_epi16(third2, x, y), z);
            const __m512i c2 = _mm512_mask_blend_epi16(third1, _mm512_mask_blend_epi16(third0, x, y), z);
            _mm512_mask_storeu_epi16(out + i, some, _mm512_permutexvar_epi16(order[0], c0));
            _mm512_mask_storeu_epi16(out + plane + i, some, _mm512_permutexvar_epi16(order[1], c1));
            _mm512_mask_storeu_epi16(out + 2 * plane + i, some, _mm512_permutexvar_epi16(order[2], c2));
        }
    }

    template <class T>
    static bool invert(const Inverse& inverse, const T* input, const T* e, size_t count, uint8_t* out) {
        const Constants k = constants(inverse);
        __m512i largest = _mm512_setzero_si512();
        for (size_t i = 0; i < count; i += 64) {
            const __mmask64 some = first_bytes(count - i);
            prefetch_samples(input + i + AHEAD, e + i + AHEAD, out + i + AHEAD);
            _mm512_mask_storeu_epi8(out + i, some, bytes(k, input + i, e + i, some, largest));
        }
        return all_finite(largest);
    }

    // Sixty-four pixels a step. In a lane of 16 pixels each channel is shuffled once to the residue that its bytes
    // have in all three output registers; blends then choose, and two permutations put the lanes in order.
    template <class T>
    static bool invert_planar(const Inverse& inverse, const T* input, size_t input_plane, const T* e, size_t e_plane,
                              size_t count, uint8_t* out) {
        const Constants k = constants(inverse);
        __m512i largest = _mm512_setzero_si512(), spread[3];
        for (int channel = 0; channel < 3; channel++) {  // byte (3 p + channel) mod 16 comes from pixel p
            alignas(16) uint8_t at[16];
            for (int p = 0; p < 16; p++) at[(3 * p + channel) % 16] = static_cast<uint8_t>(p);
            spread[channel] = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(at)));
        }
        // In each 16 bytes, those at positions i mod 3.
        constexpr __mmask64 third0 = 0x9249924992499249, third1 = 0x2492249224922492, third2 = 0x4924492449244924;
        size_t i = 0;
        for (; i + 64 <= count; i += 64) {
            prefetch_planes(input, input_plane, e, e_plane, i, out);
            const __m512i r = _mm512_shuffle_epi8(bytes(k, input + i, e + i, ~0ull, largest), spread[0]);
            const __m512i g = _mm512_shuffle_epi8(
                bytes(k, input + input_plane + i, e + e_plane + i, ~0ull, largest), spread[1]);
            const __m512i b = _mm512_shuffle_epi8(
                bytes(k, input + 2 * input_plane + i, e + 2 * e_plane + i, ~0ull, largest), spread[2]);
            // Byte i of a lane of register j belongs to channel (16 j + i) mod 3 = (j + i) mod 3.
            const __m512i o0 = _mm512_mask_blend_epi8(third2, _mm512_mask_blend_epi8(third1, r, g), b);
            const __m512i o1 = _mm512_mask_blend_epi8(third1, _mm512_mask_blend_epi8(third0, r, g), b);
            const __m512i o2 = _mm512_mask_blend_epi8(third0, _mm512_mask_blend_epi8(third2, r, g), b);
            // Lanes in memory: o0 o1 o2 of the first 16 pixels, then of the next.
            const __m512i o01 = _mm512_permutex2var_epi64(o0, _mm512_setr_epi64(0, 1, 8, 9, 0, 0, 2, 3), o1);
            const __m512i o12 = _mm512_permutex2var_epi64(o1, _mm512_setr_epi64(2, 3, 10, 11, 0, 0, 4, 5), o2);
            const __m512i o20 = _mm512_permutex2var_epi64(o2, _mm512_setr_epi64(4, 5, 14, 15, 0, 0, 6, 7), o0);
            store(out + 3 * i, _mm512_permutex2var_epi64(o01, _mm512_setr_epi64(0, 1, 2, 3, 8, 9, 6, 7), o2));
            store(out + 3 * i + 64, _mm512_permutex2var_epi64(o12, _mm512_setr_epi64(0, 1, 2, 3, 12, 13, 6, 7), o0));
            store(out + 3 * i + 128, _mm512_permutex2var_epi64(o20, _mm512_setr_epi64(0, 1, 2, 3, 14, 15, 6, 7), o1));
        }
        return all_finite(largest) &
               invert_planes(inverse, input + i, input_plane, e + i, e_plane, count - i, out + 3 * i);
    }
};

}  // namespace

extern const Kernel AVX512 = {"avx512", noise<Avx512>, invert<Avx512>, &GROUP_NORM_AVX512, members<Words>};

}  // namespace dpclean
#endif
