// ChaCha20 (RFC 8439): one block, in plain integer operations for host and device.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define DPCLEAN_INLINE static __host__ __device__ __forceinline__
#define DPCLEAN_UNROLL _Pragma("unroll")
#else
#define DPCLEAN_INLINE static inline
#define DPCLEAN_UNROLL
#endif

namespace dpclean {

// Words 0-3 of the state: "expand 32-byte k".
constexpr uint32_t EXPA = 0x61707865, ND_3 = 0x3320646e, TWO_BY = 0x79622d32, TE_K = 0x6b206574;

DPCLEAN_INLINE uint32_t rotl(uint32_t x, int r) { return x << r | x >> (32 - r); }

DPCLEAN_INLINE void quarter_round(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
    a += b; d = rotl(d ^ a, 16);
    c += d; b = rotl(b ^ c, 12);
    a += b; d = rotl(d ^ a, 8);
    c += d; b = rotl(b ^ c, 7);
}

// One block of 16 words; nonce words are (run, low, high).
DPCLEAN_INLINE void chacha20_block(const uint32_t key[8], uint32_t counter, uint32_t run, uint32_t low, uint32_t high,
                                   uint32_t out[16]) {
    const uint32_t start[16] = {EXPA,   ND_3,   TWO_BY, TE_K,   key[0],  key[1], key[2], key[3],
                                key[4], key[5], key[6], key[7], counter, run,    low,    high};
    DPCLEAN_UNROLL
    for (int i = 0; i < 16; i++) out[i] = start[i];
    DPCLEAN_UNROLL
    for (int round = 0; round < 10; round++) {
        quarter_round(out[0], out[4], out[8], out[12]);
        quarter_round(out[1], out[5], out[9], out[13]);
        quarter_round(out[2], out[6], out[10], out[14]);
        quarter_round(out[3], out[7], out[11], out[15]);
        quarter_round(out[0], out[5], out[10], out[15]);
        quarter_round(out[1], out[6], out[11], out[12]);
        quarter_round(out[2], out[7], out[8], out[13]);
        quarter_round(out[3], out[4], out[9], out[14]);
    }
    DPCLEAN_UNROLL
    for (int i = 0; i < 16; i++) out[i] += start[i];
}

}  // namespace dpclean
