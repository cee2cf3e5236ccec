// SHA-256 (FIPS 180-4) with the SHA extensions of x86.
#include "sha256.h"

#if defined(__x86_64__)
#pragma GCC target("sha,sse4.1,ssse3")

#include <immintrin.h>
#include <string.h>

namespace dpclean {
namespace {

constexpr size_t BLOCK = 64;

alignas(16) constexpr uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
constexpr uint32_t START[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

inline __m128i load(const void* at) { return _mm_loadu_si128(static_cast<const __m128i*>(at)); }
inline __m128i big_endian(__m128i words) {
    return _mm_shuffle_epi8(words, _mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12));
}

// The state as the instructions want it: words A B E F and C D G H, the first one highest.
struct State {
    __m128i abef, cdgh;
};

inline State start() {
    const __m128i cdab = _mm_shuffle_epi32(load(START), 0xb1), efgh = _mm_shuffle_epi32(load(START + 4), 0x1b);
    return {_mm_alignr_epi8(cdab, efgh, 8), _mm_blend_epi16(efgh, cdab, 0xf0)};
}

inline void finish(const State& state, uint8_t* digest) {
    const __m128i feba = _mm_shuffle_epi32(state.abef, 0x1b), dchg = _mm_shuffle_epi32(state.cdgh, 0xb1);
    const __m128i words[2] = {big_endian(_mm_blend_epi16(feba, dchg, 0xf0)),
                              big_endian(_mm_alignr_epi8(dchg, feba, 8))};
    memcpy(digest, words, 32);
}

// So many blocks of each of N streams. The rounds of one wait for each other; those of another fill the time.
template <size_t N>
void compress(State (&states)[N], const uint8_t* const (&data)[N], size_t blocks) {
    for (size_t block = 0; block < blocks; block++) {
        State before[N];
        __m128i w[N][4];
        for (size_t n = 0; n < N; n++) {
            before[n] = states[n];
            for (size_t i = 0; i < 4; i++) w[n][i] = big_endian(load(data[n] + block * BLOCK + 16 * i));
        }
#pragma GCC unroll 16
        for (size_t i = 0; i < 16; i++) {
            for (size_t n = 0; n < N; n++) {
                __m128i &now = w[n][i % 4], &last = w[n][(i + 3) % 4];
                if (i >= 4) {
                    const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(now, w[n][(i + 1) % 4]),
                                                      _mm_alignr_epi8(last, w[n][(i + 2) % 4], 4));
                    now = _mm_sha256msg2_epu32(sum, last);
                }
                State& s = states[n];
                const __m128i added = _mm_add_epi32(now, load(K + 4 * i));
                s.cdgh = _mm_sha256rnds2_epu32(s.cdgh, s.abef, added);
                s.abef = _mm_sha256rnds2_epu32(s.abef, s.cdgh, _mm_shuffle_epi32(added, 0x0e));
            }
        }
        for (size_t n = 0; n < N; n++) {
            states[n].abef = _mm_add_epi32(states[n].abef, before[n].abef);
            states[n].cdgh = _mm_add_epi32(states[n].cdgh, before[n].cdgh);
        }
    }
}

// N pieces of one size.
template <size_t N>
void hash(Hashed* pieces) {
    const size_t size = pieces[0].size, whole = size / BLOCK, rest = size % BLOCK, tail = rest < BLOCK - 8 ? 1 : 2;
    State states[N];
    uint8_t ends[N][2 * BLOCK] = {};
    const uint8_t *data[N], *at_end[N];
    for (size_t n = 0; n < N; n++) {
        states[n] = start();
        data[n] = pieces[n].data;
        at_end[n] = ends[n];
        if (rest) memcpy(ends[n], data[n] + whole * BLOCK, rest);
        ends[n][rest] = 0x80;
        for (size_t i = 0; i < 8; i++) ends[n][tail * BLOCK - 1 - i] = static_cast<uint8_t>((uint64_t{size} * 8) >> 8 * i);
    }
    compress<N>(states, data, whole);
    compress<N>(states, at_end, tail);
    for (size_t n = 0; n < N; n++) finish(states[n], pieces[n].digest);
}

}  // namespace

void sha256(Hashed* pieces, size_t count) {
    for (size_t i = 0; i < count;) {
        if (i + 1 < count && pieces[i].size == pieces[i + 1].size) {
            hash<2>(pieces + i);
            i += 2;
        } else {
            hash<1>(pieces + i++);
        }
    }
}

}  // namespace dpclean

#else

namespace dpclean {

void sha256(Hashed*, size_t) {}

}  // namespace dpclean

#endif
