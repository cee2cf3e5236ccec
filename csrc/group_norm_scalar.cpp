#include "group_norm.h"

namespace dpclean {

void group_norm_scalar(const GroupNormJob& job, size_t sample, size_t first_group, size_t last_group) {
    group_norm<4>(job, sample, first_group, last_group);
}

}  // namespace dpclean
