"""Does the noise follow round(N(0, (255 sigma)^2))? 10^8 draws at each sigma, two keys.

    python benchmarks/noise_goodness_of_fit.py [--draws 100000000]

Chi-square over the values of Z against the exact probabilities (cells merged until 20 draws are expected); mean,
variance, and the correlations with the next sample, the sixteenth next (the next ChaCha block), the same sample of the
next image, and of a square with the next; all in standard errors. Writes results/noise_goodness_of_fit.json.
"""

from __future__ import annotations

import argparse
import hashlib

import numpy as np
from machine_facts import write_results
from numpy.typing import NDArray
from scipy.stats import chi2

from dpclean.noise import add_noise
from dpclean.noise.table import upper_tail_counts

SIGMAS = (0.02, 0.1, 0.25, 0.5, 1.0, 4.0)
KEYS = tuple(hashlib.sha256(f"goodness of fit {i}".encode()).digest() for i in range(2))
SIDE, BATCH = 128, 64  # 49,152 samples an image


def probabilities(sigma: float) -> NDArray[np.float64]:
    """P(Z = -k .. k), exact up to the rounding of doubles."""
    tails = np.array([*upper_tail_counts(sigma), 0], dtype=object)
    up = (tails[:-1] - tails[1:]).astype(np.float64)
    return np.array([*up[::-1], float(2**96 - 2 * tails[0]), *up]) / 2.0**96


def chi_square(counts: NDArray[np.int64], expected: NDArray[np.float64]) -> tuple[float, float, int]:
    """Statistic, p value and degrees of freedom, with cells merged from the left until 20 are expected."""
    edges = [0]
    filled = 0.0
    for i, e in enumerate(expected):
        filled += e
        if filled >= 20 and expected[i + 1 :].sum() >= 20:
            edges.append(i + 1)
            filled = 0.0
    observed, wanted = np.add.reduceat(counts, edges), np.add.reduceat(expected, edges)
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    return statistic, float(chi2.sf(statistic, len(edges) - 1)), len(edges) - 1


def measure(sigma: float, key: bytes, draws: int) -> dict[str, float]:
    """All the numbers of one sigma and key; correlations over neighbours within a batch of images."""
    p = probabilities(sigma)
    k = len(p) // 2
    values = np.arange(-k, k + 1)
    variance, fourth = float((p * values.astype(float) ** 2).sum()), float((p * values.astype(float) ** 4).sum())
    images = np.zeros((BATCH, SIDE, SIDE, 3), dtype=np.uint8)
    counts = np.zeros(2 * k + 1, dtype=np.int64)
    products, pairs = np.zeros(4), np.zeros(4)
    total = 0
    for start in range(0, -(-draws // images.size) * BATCH, BATCH):
        z = add_noise(images, sigma, key=key, run=0, indices=np.arange(start, start + BATCH)).reshape(BATCH, -1)
        counts += np.bincount(z.ravel() + k, minlength=2 * k + 1)
        total += z.size
        x = z.astype(np.float32) / np.float32(variance**0.5)
        square = x * x - 1
        neighbours = ((x[:, 1:], x[:, :-1]), (x[:, 16:], x[:, :-16]), (x[1:], x[:-1]), (square[:, 1:], square[:, :-1]))
        for i, (a, b) in enumerate(neighbours):
            products[i] += np.einsum("ij,ij->", a, b, dtype=np.float64)
            pairs[i] += a.size
    mean_z = (counts * values).sum() / (variance * total) ** 0.5
    variance_z = ((counts * values.astype(float) ** 2).sum() - total * variance) / (
        total * (fourth - variance**2)
    ) ** 0.5
    spread = fourth / variance**2 - 1  # the variance of a standardised square
    errors = products / np.sqrt(pairs) / np.array([1, 1, 1, spread])
    statistic, p_value, freedom = chi_square(counts, p * total)
    return {
        "sigma": sigma, "draws": total, "chi_square": statistic, "degrees": freedom, "p": p_value, "mean": mean_z,
        "variance": variance_z, "lag_1": errors[0], "lag_16": errors[1], "next_image": errors[2], "squares": errors[3],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10**8, help="a sigma and key (default 10^8)")
    draws = parser.parse_args().draws
    columns = ("p", "mean", "variance", "lag_1", "lag_16", "next_image", "squares")
    print("sigma  key  " + "".join(f"{c:>11}" for c in columns) + "   (p of chi-square; the rest in standard errors)")
    rows = []
    for sigma in SIGMAS:
        for number, key in enumerate(KEYS):
            row = {name: float(value) for name, value in measure(sigma, key, draws).items()}
            rows.append({"key": number, **row})
            print(f"{sigma:<5}  {number:>3}  " + "".join(f"{row[c]:>11.3f}" for c in columns), flush=True)
    write_results("noise_goodness_of_fit", {"rows": rows})


if __name__ == "__main__":
    main()
