#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512vl")

#include "group_norm.h"

namespace dpclean {

void group_norm_avx512(const GroupNormJob& job, size_t sample, size_t first_group, size_t last_group) {
    group_norm<16>(job, sample, first_group, last_group);
}

}  // namespace dpclean
#endif
