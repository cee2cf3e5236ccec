#include "areas.h"

namespace dpclean {
namespace {

// float32 along the row of an area, float64 over its rows: a mean over megapixels is as good as one over few.
template <class T>
void means(const AreaJob& job, size_t image, size_t channel) {
    const View& v = job.view;
    const T* from = static_cast<const T*>(v.data) + image * v.image + channel * v.channel;
    float* out = job.out + (image * v.channels + channel) * job.rows * job.columns;
    for (size_t i = 0; i < job.rows; i++) {
        const size_t top = i * job.height / job.rows, bottom = ((i + 1) * job.height + job.rows - 1) / job.rows;
        for (size_t j = 0; j < job.columns; j++) {
            const size_t left = j * job.width / job.columns;
            const size_t right = ((j + 1) * job.width + job.columns - 1) / job.columns;
            double sum = 0.0;
            for (size_t y = top; y < bottom; y++) {
                const T* row = from + y * job.width * v.pixel;
                float parts[4] = {};  // an addition has to wait for the one before
                size_t x = left;
                for (; x + 4 <= right; x += 4)
                    for (size_t k = 0; k < 4; k++) parts[k] += widen(row[(x + k) * v.pixel]);
                for (; x < right; x++) parts[0] += widen(row[x * v.pixel]);
                sum += static_cast<double>((parts[0] + parts[1]) + (parts[2] + parts[3]));
            }
            *out++ = static_cast<float>(sum / static_cast<double>((bottom - top) * (right - left)));
        }
    }
}

}  // namespace

void area_means(const AreaJob& job, size_t image) {
    for (size_t channel = 0; channel < job.view.channels; channel++) switch (job.view.type) {
            case Type::bf16: means<BF16>(job, image, channel); break;
            case Type::f16: means<F16>(job, image, channel); break;
            default: means<F32>(job, image, channel); break;
        }
}

}  // namespace dpclean
