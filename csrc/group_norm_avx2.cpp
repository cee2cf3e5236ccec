#if defined(__x86_64__)
#pragma GCC target("avx2,f16c")

#include "group_norm.h"

namespace dpclean {

void group_norm_avx2(const GroupNormJob& job, size_t sample, size_t first_group, size_t last_group) {
    group_norm<8>(job, sample, first_group, last_group);
}

}  // namespace dpclean
#endif
