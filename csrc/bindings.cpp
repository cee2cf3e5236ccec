// The Python module dpclean._kernels: addresses as integers, checked sizes, no torch and no numpy.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "areas.h"
#include "cuda.h"
#include "threads.h"

namespace py = pybind11;

namespace dpclean {
namespace {

constexpr size_t GRAIN = 2 * 384;  // blocks; a whole number of tiles and, in planar output, of pixels

void require(bool holds, const char* otherwise) {
    if (!holds) throw std::invalid_argument(otherwise);
}

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

const Kernel& kernel_named(const std::string& name) {
    size_t count;
    const Kernel* const* kernels = available_kernels(count);
    for (size_t i = 0; i < count; i++)
        if (name == kernels[i]->name) return *kernels[i];
    throw std::invalid_argument("this CPU has no kernel of that name");
}

py::list kernel_names() {
    size_t count;
    const Kernel* const* kernels = available_kernels(count);
    py::list names;
    for (size_t i = 0; i < count; i++) names.append(kernels[i]->name);
    return names;
}

Type type_named(const std::string& name) {
    if (name == "f32") return Type::f32;
    if (name == "bf16") return Type::bf16;
    if (name == "f16") return Type::f16;
    if (name == "i16") return Type::i16;
    throw std::invalid_argument("element type must be f32, bf16, f16 or i16");
}

Stream stream_of(const py::bytes& key, uint32_t run, bool test) {
    const std::string_view text = key;
    require(text.size() == 32, "key must have 32 bytes");
    Stream stream;
    for (int i = 0; i < 8; i++) {
        const auto* b = reinterpret_cast<const uint8_t*>(text.data()) + 4 * i;
        stream.key[i] = b[0] | b[1] << 8 | b[2] << 16 | static_cast<uint32_t>(b[3]) << 24;
    }
    stream.run = run;
    stream.test = test ? 0x80000000 : 0;
    return stream;
}

NoiseJob noise_job(const py::bytes& key, uint32_t run, bool test, uintptr_t entry, uintptr_t low, uint32_t m, uint32_t k,
                   uintptr_t images, uintptr_t indices, size_t count, size_t samples, size_t channels, bool planar,
                   const std::string& type, float a, uintptr_t out) {
    require(count == 0 || samples == 0 || (images && indices && out), "null address");
    require(entry == 0 || (low && m >= 1 && m <= 15 && 2 * k < 1u << m), "table out of range");
    require(entry != 0 || k == 0, "without a table k must be 0");
    require(samples < 1ull << 31, "an image has fewer than 2^31 samples");
    require(channels >= 1 && samples % channels == 0, "samples must be whole pixels");
    require(!planar || channels == 1 || channels == 3, "planar output needs 1 or 3 channels");
    return {stream_of(key, run, test), {at<uint32_t>(entry), at<uint64_t>(low), m, k}, at<uint8_t>(images),
            at<int64_t>(indices), count, samples, channels, planar, type_named(type), a, at<void>(out)};
}

void noise_on_cpu(const std::string& kernel, size_t threads, const NoiseJob& job) {
    const Kernel& chosen = kernel_named(kernel);
    if (job.count == 0 || job.samples == 0) return;
    py::gil_scoped_release release;
    in_parallel(threads, job.count * blocks_per_image(job), GRAIN,
                [&](size_t first, size_t last) { chosen.noise(job, first, last); });
}

View view(uintptr_t data, const std::string& type, size_t channels, const py::tuple& strides) {
    require(strides.size() == 3, "strides are (image, channel, pixel)");
    return {at<void>(data), type_named(type), channels, strides[0].cast<size_t>(), strides[1].cast<size_t>(),
            strides[2].cast<size_t>()};
}

InverseJob inverse_job(float p, float q, bool reads_input, const View& input, const View& prediction, size_t channels,
                       size_t pixels, uintptr_t out) {
    require(channels == 1 || channels == 3, "an image has 1 or 3 channels");
    require(prediction.channels >= channels, "the prediction has too few channels");
    require(channels == 3 || prediction.channels == 1 || prediction.channels >= 3,
            "a one-channel image needs a prediction of 1, or of 3 or more channels");
    require(prediction.type != Type::i16 && input.type != Type::i16, "model tensors are f32, bf16 or f16");
    return {{p, q, reads_input}, input, prediction, channels, pixels, at<uint8_t>(out)};
}

void invert_on_cpu(const std::string& kernel, size_t threads, const InverseJob& job, size_t count, uintptr_t finite) {
    const Kernel& chosen = kernel_named(kernel);
    auto* flags = at<uint8_t>(finite);
    py::gil_scoped_release release;
    for (size_t i = 0; i < count; i++) flags[i] = 1;
    // One range over all pixels; a piece of it may end inside an image, so a flag may have several writers.
    in_parallel(threads, count * job.pixels, 1 << 14, [&](size_t first, size_t last) {
        while (first < last) {
            const size_t image = first / job.pixels, begin = first % job.pixels;
            const size_t end = std::min(job.pixels, begin + last - first);
            if (!chosen.invert(job, image, begin, end)) __atomic_store_n(&flags[image], uint8_t{0}, __ATOMIC_RELAXED);
            first += end - begin;
        }
    });
}

void area_means_on_cpu(size_t threads, const View& view, size_t count, size_t height, size_t width, size_t rows,
                       size_t columns, uintptr_t out) {
    require(view.data && out, "null address");
    require(rows >= 1 && rows <= height && columns >= 1 && columns <= width, "an area has at least one pixel");
    require(view.type != Type::i16, "model tensors are f32, bf16 or f16");
    const AreaJob job{view, height, width, rows, columns, at<float>(out)};
    py::gil_scoped_release release;
    in_parallel(count * height * width < 1 << 16 ? 1 : threads, count, 1, [&](size_t first, size_t last) {
        for (size_t image = first; image < last; image++) area_means(job, image);
    });
}

// All of `sums` of group_norm, then the rest: whole samples to each thread while they last in the cache, else the blocks
// of all samples.
void group_norm_on_cpu(const std::string& kernel, size_t threads, const GroupNormJob& job, size_t count) {
    const GroupNorm& norm = *kernel_named(kernel).group_norm;
    require(job.type != Type::f16, "on the CPU activations are f32 or bf16");
    py::gil_scoped_release release;
    if (count * job.pixels * job.channels < 1 << 15) threads = 1;
    const size_t blocks = blocks_per_sample(job), each = 2 * blocks * job.channels;
    std::vector<double> sums(count * each);
    const auto over = [&](auto function, size_t first, size_t last) {
        for (size_t i = first; i < last; i++) function(job, i / blocks, i % blocks, &sums[i / blocks * each]);
    };
    if (blocks == 1 || count >= 4 * threads)
        return in_parallel(threads, count, 1, [&](size_t first, size_t last) {
            for (size_t sample = first; sample < last; sample++) {
                over(norm.sums, sample * blocks, (sample + 1) * blocks);
                over(norm.apply, sample * blocks, (sample + 1) * blocks);
            }
        });
    in_parallel(threads, count * blocks, 1, [&](size_t first, size_t last) { over(norm.sums, first, last); });
    in_parallel(threads, count * blocks, 1, [&](size_t first, size_t last) { over(norm.apply, first, last); });
}

void group_norm_gradient_on_cpu(const std::string& kernel, size_t threads, const GroupNormJob& norm, uintptr_t gradient,
                                uintptr_t weight_gradient, uintptr_t bias_gradient, size_t count) {
    require(gradient && weight_gradient && bias_gradient, "null address");
    require(norm.type != Type::f16, "on the CPU activations are f32 or bf16");
    const GroupNorm& chosen = *kernel_named(kernel).group_norm;
    const GroupNormGradientJob job{norm, at<void>(gradient), at<float>(weight_gradient), at<float>(bias_gradient)};
    py::gil_scoped_release release;
    const size_t blocks = blocks_per_sample(norm), each = 2 * blocks * norm.channels;
    in_parallel(threads, count, 1, [&](size_t first, size_t last) {
        std::vector<double> sums(each);
        for (size_t sample = first; sample < last; sample++) {
            for (size_t block = 0; block < blocks; block++) chosen.sums(norm, sample, block, sums.data());
            chosen.gradient(job, sample, sums.data());
        }
    });
}

GroupNormJob group_norm_job(uintptr_t input, uintptr_t out, const std::string& type, uintptr_t weight, uintptr_t bias,
                            size_t pixels, size_t channels, size_t groups, double eps, bool silu) {
    require(input && out && weight && bias, "null address");
    require(groups >= 1 && channels % groups == 0, "channels must be a multiple of groups");
    require(channels <= 8192, "at most 8192 channels");
    const Type stored = type_named(type);
    require(stored != Type::i16, "activations are f32, bf16 or f16");
    return {at<void>(input), at<void>(out), stored, at<float>(weight), at<float>(bias), pixels, channels, groups, eps,
            silu};
}

py::object convolution_type(const std::string& kernel) {
    const Convolution* convolution = kernel_named(kernel).convolution;
    if (!convolution) return py::none();
    return py::str(convolution->type == Type::f32 ? "f32" : "bf16");
}

ConvolutionJob convolution_job(uintptr_t input, uintptr_t filters, uintptr_t bias, uintptr_t added, uintptr_t out,
                               size_t count, size_t height, size_t width, size_t inputs, size_t outputs,
                               bool upsampled) {
    require(input && filters && bias && out, "null address");
    require(filters % 64 == 0, "filters must lie at a multiple of 64");
    require(inputs >= 1 && inputs <= MOST_INPUTS, "from 1 to 1024 channels of the input");
    require(outputs >= 1 && outputs % 32 == 0, "channels of the result must be a multiple of 32");
    require(!upsampled || (height % 2 == 0 && width % 2 == 0), "what was upsampled has even edges");
    return {at<void>(input), at<void>(filters), at<float>(bias), at<void>(added), at<void>(out), count, height, width,
            inputs, outputs, upsampled};
}

void convolve(const std::string& kernel, size_t threads, const ConvolutionJob& job) {
    const Convolution* chosen = kernel_named(kernel).convolution;
    require(chosen, "that kernel has no convolution");
    const size_t grain = 384 / (chosen->edge * chosen->edge);  // as many pixels of a result whatever a tile is
    py::gil_scoped_release release;
    in_parallel(threads, tiles_of(job, chosen->edge), grain,
                [&](size_t first, size_t last) { chosen->tiles(job, first, last); });
}

size_t members(const std::string& kernel, const py::bytes& key, uint32_t run, uint32_t share, size_t count,
               uintptr_t places) {
    require(share >= 1, "a share is at least 1");
    require(count <= size_t{1} << 36, "a stream has 2^36 words");
    require(count == 0 || places, "null address");
    const Kernel& chosen = kernel_named(kernel);
    const MembersJob job{stream_of(key, run, false), share, count, at<int64_t>(places)};
    py::gil_scoped_release release;
    return chosen.members(job);
}

py::list chacha20(const py::bytes& key, uint32_t counter, uint32_t run, uint32_t low, uint32_t high) {
    uint32_t words[16];
    chacha20_block(stream_of(key, run, false).key, counter, run, low, high, words);
    py::list out;
    for (uint32_t word : words) out.append(word);
    return out;
}

#ifdef DPCLEAN_CUDA
void raise(const char* problem) {
    if (problem) throw std::runtime_error(problem);
}

SumJob sum_job(uintptr_t x, uintptr_t other, uintptr_t first, uintptr_t second, uintptr_t out, const std::string& type,
               size_t count, size_t channels) {
    require(x && other && out, "null address");
    require(type_named(type) != Type::i16, "activations are f32, bf16 or f16");
    require(channels >= 1 && count % channels == 0, "the elements must be whole pixels");
    return {at<void>(x), at<void>(other), at<void>(first), at<void>(second), at<void>(out), type_named(type), count,
            channels};
}
#endif

}  // namespace

PYBIND11_MODULE(_kernels, module) {
    module.doc() = "Compiled kernels of dpclean; see dpclean.noise for what they compute.";
    py::class_<NoiseJob>(module, "NoiseJob")
        .def(py::init(&noise_job), py::kw_only(), py::arg("key"), py::arg("run"), py::arg("test"), py::arg("entry"),
             py::arg("low"), py::arg("m"), py::arg("k"), py::arg("images"), py::arg("indices"), py::arg("count"),
             py::arg("samples"), py::arg("channels"), py::arg("planar"), py::arg("type"), py::arg("a"), py::arg("out"));
    py::class_<View>(module, "View")
        .def(py::init(&view), py::arg("data"), py::arg("type"), py::arg("channels"), py::arg("strides"));
    py::class_<InverseJob>(module, "InverseJob")
        .def(py::init(&inverse_job), py::kw_only(), py::arg("p"), py::arg("q"), py::arg("reads_input"),
             py::arg("input"), py::arg("prediction"), py::arg("channels"), py::arg("pixels"), py::arg("out"));
    py::class_<GroupNormJob>(module, "GroupNormJob")
        .def(py::init(&group_norm_job), py::kw_only(), py::arg("input"), py::arg("out"), py::arg("type"),
             py::arg("weight"), py::arg("bias"), py::arg("pixels"), py::arg("channels"), py::arg("groups"),
             py::arg("eps"), py::arg("silu"));
    py::class_<ConvolutionJob>(module, "ConvolutionJob")
        .def(py::init(&convolution_job), py::kw_only(), py::arg("input"), py::arg("filters"), py::arg("bias"),
             py::arg("added"), py::arg("out"), py::arg("count"), py::arg("height"), py::arg("width"), py::arg("inputs"),
             py::arg("outputs"), py::arg("upsampled"));
    module.def("kernel_names", &kernel_names, "Kernels this CPU can run, fastest first.");
    module.def("noise", &noise_on_cpu, py::arg("kernel"), py::arg("threads"), py::arg("job"));
    module.def("invert", &invert_on_cpu, py::arg("kernel"), py::arg("threads"), py::arg("job"), py::arg("count"),
               py::arg("finite"));
    module.def("area_means", &area_means_on_cpu, py::arg("threads"), py::arg("view"), py::arg("count"),
               py::arg("height"), py::arg("width"), py::arg("rows"), py::arg("columns"), py::arg("out"));
    module.def("group_norm_silu", &group_norm_on_cpu, py::arg("kernel"), py::arg("threads"), py::arg("job"),
               py::arg("count"));
    module.def("group_norm_silu_gradient", &group_norm_gradient_on_cpu, py::arg("kernel"), py::arg("threads"),
               py::arg("norm"), py::arg("gradient"), py::arg("weight_gradient"), py::arg("bias_gradient"),
               py::arg("count"));
    module.def("convolution_type", &convolution_type, py::arg("kernel"),
               "The type of activations, f32 or bf16, that a kernel has a convolution of; None without one.");
    module.def("convolve", &convolve, py::arg("kernel"), py::arg("threads"), py::arg("job"));
    module.def("members", &members, py::arg("kernel"), py::arg("key"), py::arg("run"), py::arg("share"),
               py::arg("count"), py::arg("places"), "How many places were written, int64 each.");
    module.def("chacha20", &chacha20, py::arg("key"), py::arg("counter"), py::arg("run"), py::arg("low"),
               py::arg("high"), "The 16 words of one block.");
    module.attr("sources") = DPCLEAN_SOURCES;  // their digest
#ifdef DPCLEAN_CUDA
    module.attr("cuda_built") = true;
    module.def("noise_cuda", [](const NoiseJob& job, int device, uintptr_t stream) {
        raise(noise_cuda(job, device, at<void>(stream)));
    }, py::arg("job"), py::arg("device"), py::arg("stream"));
    module.def("invert_cuda", [](const InverseJob& job, size_t count, uintptr_t finite, int device, uintptr_t stream) {
        raise(invert_cuda(job, count, at<uint8_t>(finite), device, at<void>(stream)));
    }, py::arg("job"), py::arg("count"), py::arg("finite"), py::arg("device"), py::arg("stream"));
    module.def("group_norm_cuda_scratch", [](const GroupNormJob& job, size_t count, int device) {
        size_t bytes;
        raise(group_norm_cuda_scratch(job, count, device, bytes));
        return bytes;
    }, py::arg("job"), py::arg("count"), py::arg("device"));
    module.def("group_norm_cuda", [](const GroupNormJob& job, size_t count, uintptr_t added, uintptr_t scratch,
                                     int device, uintptr_t stream) {
        raise(group_norm_cuda(job, count, at<void>(added), at<void>(scratch), device, at<void>(stream)));
    }, py::arg("job"), py::arg("count"), py::arg("added"), py::arg("scratch"), py::arg("device"), py::arg("stream"));
    module.def("sum_cuda", [](uintptr_t x, uintptr_t other, uintptr_t first, uintptr_t second, uintptr_t out,
                              const std::string& type, size_t count, size_t channels, int device, uintptr_t stream) {
        raise(sum_cuda(sum_job(x, other, first, second, out, type, count, channels), device, at<void>(stream)));
    }, py::kw_only(), py::arg("x"), py::arg("other"), py::arg("first"), py::arg("second"), py::arg("out"),
       py::arg("type"), py::arg("count"), py::arg("channels"), py::arg("device"), py::arg("stream"));
#else
    module.attr("cuda_built") = false;
#endif
}

}  // namespace dpclean
