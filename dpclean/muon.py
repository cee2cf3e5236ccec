"""What makes Muon out of momentum: an update whose singular values are all about one."""

from __future__ import annotations

from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalized(gradient: Tensor, steps: int = 3) -> Tensor:
    """The nearest semi-orthogonal matrix to [M,N], roughly, by a quintic Newton-Schulz iteration in half precision.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """
    matrix = gradient.bfloat16()
    matrix = matrix / (matrix.norm() + 1e-7)
    tall = matrix.shape[0] > matrix.shape[1]
    matrix = matrix.T if tall else matrix
    for _ in range(steps):
        square = matrix @ matrix.T
        matrix = _A * matrix + (_B * square + _C * square @ square) @ matrix
    found: Tensor = (matrix.T if tall else matrix).to(gradient.dtype)
    return found
