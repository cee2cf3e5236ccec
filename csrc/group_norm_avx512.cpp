#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512vl")

#include <immintrin.h>

#include "group_norm.h"

namespace dpclean {
namespace {

struct Wide {
    typedef float F __attribute__((vector_size(64)));
    typedef uint32_t U __attribute__((vector_size(64)));
    static constexpr size_t lanes = 16;

    static F load(const F32* from) { return _mm512_loadu_ps(from); }
    static F load(const BF16* from) {
        const __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
        return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
    }
    static void store(F32* to, F x) { _mm512_storeu_ps(to, x); }
    static void store(BF16* to, F x) {
        const __m512i u = reinterpret_cast<__m512i>(bfloat16_bits<Wide>(x));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(u));
    }
    static F multiply_add(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    // 2^(-x log2 e) for x above -87: below, 1 / (1 + e^-x) stays where it is there, and finite.
    template <bool ROUGH>
    static F exp_of_negative(F x) {
        const F t = _mm512_min_ps(_mm512_set1_ps(126.0f), _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f)));
        const F n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        return _mm512_scalef_ps(ROUGH ? rough_power_of_two<Wide>(t - n) : power_of_two<Wide>(t - n), n);
    }
    // 1 / (1 + e^-x), errors as in one_plus_exp. A reciprocal of 14 bits and one Newton step: a division takes the time
    // of all the rest.
    static F sigmoid(F x) {
        const F d = exp_of_negative<false>(x) + 1.0f, guess = _mm512_rcp14_ps(d);
        return _mm512_fmadd_ps(guess, _mm512_fnmadd_ps(d, guess, _mm512_set1_ps(1.0f)), guess);
    }
    static F silu(F x, F32) { return x * sigmoid(x); }
    static F silu(F x, BF16) { return x * _mm512_rcp14_ps(exp_of_negative<true>(x) + 1.0f); }
};

}  // namespace

extern const GroupNorm GROUP_NORM_AVX512 = group_norm_by<Wide>();

}  // namespace dpclean
#endif
