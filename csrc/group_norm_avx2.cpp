#if defined(__x86_64__)
#pragma GCC target("avx2,fma")

#include <immintrin.h>

#include "group_norm.h"

namespace dpclean {
namespace {

struct Wide {
    typedef float F __attribute__((vector_size(32)));
    typedef uint32_t U __attribute__((vector_size(32)));
    static constexpr size_t lanes = 8;

    static F load(const F32* from) { return _mm256_loadu_ps(&from->value); }
    static F load(const BF16* from) {
        const __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
    }
    static void store(F32* to, F x) { _mm256_storeu_ps(&to->value, x); }
    static void store(BF16* to, F x) {
        const __m256i u = reinterpret_cast<__m256i>(bfloat16_bits<Wide>(x));
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(u, u), 0xd8);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
    }
    static F multiply_add(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static F silu(F x, F32) { return x / one_plus_exp<Wide>(x); }
    static F silu(F x, BF16) { return x * _mm256_rcp_ps(one_plus_exp<Wide, true>(x)); }  // off by 4e-4 at most
    static F sigmoid(F x) { return 1.0f / one_plus_exp<Wide>(x); }
    static F clamp(F x, float low, float high) {
        return _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(low)), _mm256_set1_ps(high));
    }
};

}  // namespace

extern const GroupNorm GROUP_NORM_AVX2 = group_norm_by<Wide>();

}  // namespace dpclean
#endif
