"""The kernels of this processor that differ in noise and normalisation."""

from __future__ import annotations

from dpclean.kernels import kernel_names

KERNELS = tuple(name for name in kernel_names() if name != "avx512bf16")  # avx512, but for its convolution
