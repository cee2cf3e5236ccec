// Means over areas of an image.
#pragma once

#include "kernels.h"

namespace dpclean {

struct AreaJob {
    View view;
    size_t height, width, rows, columns;
    float* out;  // [N, channels, rows, columns]
};

// The means of one image. Area i of n covers pixels floor(i size / n) to ceil((i + 1) size / n), as in torch's adaptive
// pooling. One order of summation, whatever the batch.
void area_means(const AreaJob& job, size_t image);

}  // namespace dpclean
