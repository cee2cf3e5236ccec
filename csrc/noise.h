// The noise and the fused float forms, one sample at a time: the definition that every kernel, CPU or
// CUDA, must reproduce bit for bit. Everything is static, so code for a wide instruction set never
// replaces the copy of another file.
#pragma once

#include <stdint.h>
#include <string.h>

#include "chacha20.h"

namespace dpclean {

constexpr uint32_t REFINEMENT = 0x80000000;  // counter bit of the stream that settles r = t

struct Table {
    const uint32_t* entry;  // 2^m packed columns, (threshold << m) | alias; null for sigma = 0
    const uint64_t* low;    // 2^m: the low 64 bits of each 96-bit threshold
    uint32_t m;
    uint32_t k;  // column c stands for Z = c - k
};

// Words 4-11 and 13 of the ChaCha20 state: what all images of a batch share.
struct Stream {
    uint32_t key[8];
    uint32_t run;
    uint32_t test;  // 0 or 2^31
};

// Words 14 and 15: which image.
struct Nonce {
    uint32_t low, high;
};

DPCLEAN_INLINE Nonce nonce(const Stream& stream, int64_t index) {
    return {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32) | stream.test};
}

// The 64 random bits of one sample beyond its first 32.
DPCLEAN_INLINE uint64_t refinement(const Stream& stream, Nonce at, uint32_t sample) {
    uint32_t words[16];
    chacha20_block(stream.key, REFINEMENT | sample >> 3, stream.run, at.low, at.high, words);
    uint64_t bits = 0;
    // The comparison instead of an index keeps `words` in registers on the GPU.
    DPCLEAN_UNROLL
    for (uint32_t j = 0; j < 8; j++)
        if (j == (sample & 7)) bits = words[2 * j] | static_cast<uint64_t>(words[2 * j + 1]) << 32;
    return bits;
}

// The column that the 32 bits of random word u select; `entry` is that of column u >> (32 - m).
DPCLEAN_INLINE uint32_t fast_column(const Table& table, uint32_t entry, uint32_t u) {
    return u << table.m < entry ? u >> (32 - table.m) : entry & ((1u << table.m) - 1);
}

// r = t: 32 bits do not decide.
DPCLEAN_INLINE bool undecided(const Table& table, uint32_t entry, uint32_t u) {
    return (entry - (u << table.m)) >> table.m == 0;
}

// The column that a sample's random words select; Z is this minus table.k.
DPCLEAN_INLINE uint32_t column(const Table& table, uint32_t entry, const Stream& stream, Nonce at, uint32_t sample,
                               uint32_t u) {
    const uint32_t own = u >> (32 - table.m), alias = entry & ((1u << table.m) - 1);
    // In a full column both outcomes are the same.
    if (!undecided(table, entry, u) || alias == own) return fast_column(table, entry, u);
    return refinement(stream, at, sample) < table.low[own] ? own : alias;
}

// ---- float32, one rounding an operation, never contracted

#ifdef __CUDA_ARCH__
DPCLEAN_INLINE float multiply(float a, float b) { return __fmul_rn(a, b); }
DPCLEAN_INLINE float add(float a, float b) { return __fadd_rn(a, b); }
DPCLEAN_INLINE float divide(float a, float b) { return __fdiv_rn(a, b); }
#else
DPCLEAN_INLINE float multiply(float a, float b) { return a * b; }
DPCLEAN_INLINE float add(float a, float b) { return a + b; }
DPCLEAN_INLINE float divide(float a, float b) { return a / b; }
#endif

DPCLEAN_INLINE uint32_t bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

DPCLEAN_INLINE float as_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

DPCLEAN_INLINE bool finite(float x) { return (bits(x) & 0x7fffffff) < 0x7f800000; }

// Stored element types. `narrow` rounds to nearest even and is never given a NaN.
struct F32 {
    float value;
    static constexpr int code = 0;
};
struct BF16 {
    uint16_t value;
    static constexpr int code = 1;
};
struct F16 {
    uint16_t value;
    static constexpr int code = 2;
};

DPCLEAN_INLINE float widen(F32 x) { return x.value; }
DPCLEAN_INLINE float widen(BF16 x) { return as_float(static_cast<uint32_t>(x.value) << 16); }
DPCLEAN_INLINE float widen(F16 x) {
    const uint32_t sign = (x.value & 0x8000u) << 16, rest = x.value & 0x7fffu;
    if (rest >= 0x7c00) return as_float(sign | 0x7f800000 | rest << 13);  // infinity, NaN
    // 2^112 moves the exponent's offset from 15 to 127, subnormals included, without rounding.
    return as_float(sign | bits(multiply(as_float(rest << 13), as_float(0x77800000))));
}

DPCLEAN_INLINE void narrow(float x, F32& out) { out.value = x; }
DPCLEAN_INLINE void narrow(float x, BF16& out) {
    const uint32_t u = bits(x);
    out.value = static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
DPCLEAN_INLINE void narrow(float x, F16& out) {
    const uint32_t sign = bits(x) >> 16 & 0x8000, rest = bits(x) & 0x7fffffff;
    uint32_t half;
    if (rest >= 0x477ff000)  // 65520 and above round to infinity
        half = 0x7c00;
    else if (rest < 0x38800000)  // below 2^-14: adding 1/2 leaves the subnormal's bits at the low end
        half = bits(add(as_float(rest), 0.5f)) - 0x3f000000;
    else
        half = (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13;
    out.value = static_cast<uint16_t>(sign | half);
}

// sqrt(abar) (n / 127.5 - 1) for grey level n, with a = sqrt(abar) / 255.
DPCLEAN_INLINE float model_input(int32_t n, float a) { return multiply(a, static_cast<float>(2 * n - 255)); }

// What the network predicts, as the way back uses it: y = (p x_t + q e) + 127.5, or y = q e + 127.5.
struct Inverse {
    float p, q;
    bool reads_input;  // false where the network predicts the sample itself
};

// y clamped to [0, 255], NaN to 0, and rounded to nearest even.
DPCLEAN_INLINE uint8_t rounded_level(float y) {
    y = y > 0.0f ? y : 0.0f;
    y = y < 255.0f ? y : 255.0f;
    // At 2^23 floats are one apart: the sum rounds to nearest even and its low bits are the integer.
    return static_cast<uint8_t>(bits(add(y, 8388608.0f)));
}

DPCLEAN_INLINE uint8_t grey_level(const Inverse& inverse, float input, float e) {
    float y = multiply(inverse.q, e);
    if (inverse.reads_input) y = add(multiply(inverse.p, input), y);
    return rounded_level(add(y, 127.5f));
}

DPCLEAN_INLINE float mean_of_three(float e0, float e1, float e2) { return divide(add(add(e0, e1), e2), 3.0f); }

}  // namespace dpclean
