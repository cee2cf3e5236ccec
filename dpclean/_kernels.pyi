"""Types of the compiled module; addresses are integers."""

cuda_built: bool
sources: str

class NoiseJob:
    def __init__(
        self,
        *,
        key: bytes,
        run: int,
        test: bool,
        entry: int,
        low: int,
        m: int,
        k: int,
        images: int,
        indices: int,
        count: int,
        samples: int,
        channels: int,
        planar: bool,
        type: str,
        a: float,
        out: int,
    ) -> None: ...

class View:
    def __init__(self, data: int, type: str, channels: int, strides: tuple[int, int, int]) -> None: ...

class InverseJob:
    def __init__(
        self,
        *,
        p: float,
        q: float,
        reads_input: bool,
        input: View,
        prediction: View,
        channels: int,
        pixels: int,
        out: int,
    ) -> None: ...

class GroupNormJob:
    def __init__(
        self,
        *,
        input: int,
        out: int,
        type: str,
        weight: int,
        bias: int,
        pixels: int,
        channels: int,
        groups: int,
        eps: float,
        silu: bool,
    ) -> None: ...

class ConvolutionJob:
    def __init__(
        self,
        *,
        input: int,
        filters: int,
        bias: int,
        added: int,
        out: int,
        count: int,
        height: int,
        width: int,
        inputs: int,
        outputs: int,
        upsampled: bool,
    ) -> None: ...

def kernel_names() -> list[str]: ...
def noise(kernel: str, threads: int, job: NoiseJob) -> None: ...
def invert(kernel: str, threads: int, job: InverseJob, count: int, finite: int) -> None: ...
def noise_cuda(job: NoiseJob, device: int, stream: int) -> None: ...
def invert_cuda(job: InverseJob, count: int, finite: int, device: int, stream: int) -> None: ...
def group_norm_cuda_scratch(job: GroupNormJob, count: int, device: int) -> int: ...
def group_norm_cuda(job: GroupNormJob, count: int, added: int, scratch: int, device: int, stream: int) -> None: ...
def sum_cuda(
    *,
    x: int,
    other: int,
    first: int,
    second: int,
    out: int,
    type: str,
    count: int,
    channels: int,
    device: int,
    stream: int,
) -> None: ...
def area_means(
    threads: int, view: View, count: int, height: int, width: int, rows: int, columns: int, out: int
) -> None: ...
def group_norm_silu(kernel: str, threads: int, job: GroupNormJob, count: int) -> None: ...
def group_norm_silu_gradient(
    kernel: str,
    threads: int,
    norm: GroupNormJob,
    gradient: int,
    weight_gradient: int,
    bias_gradient: int,
    count: int,
) -> None: ...
def convolution_type(kernel: str) -> str | None: ...
def convolve(kernel: str, threads: int, job: ConvolutionJob) -> None: ...
def members(kernel: str, key: bytes, run: int, share: int, count: int, places: int) -> int: ...
def chacha20(key: bytes, counter: int, run: int, low: int, high: int) -> list[int]: ...
