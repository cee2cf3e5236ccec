"""Whether two versions of dpclean give the same noise, denoised images, votes and certificates for fixed seeds.

    python benchmarks/same_bytes.py BEFORE AFTER INPUTS

BEFORE and AFTER: the Python of an environment each, in which a version is installed. INPUTS is what make_inputs.py
made. Each version does the same jobs by its command line; compared are the bytes of every data file, the votes and
what the certificates claim. Manifests differ by versions and digests of the code and are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine_facts import write_results
from safetensors.numpy import load_file, save_file

NOISE = """
import hashlib, numpy as np
from dpclean.noise import add_noise
x = np.random.default_rng(0).integers(0, 256, (7, 33, 31, 3), dtype=np.uint8)
print(*(hashlib.sha256(add_noise(x, sigma, key=bytes(range(32)), run=run, indices=range(7)).tobytes()).hexdigest()
        for sigma in (0.05, 0.25, 1.0) for run in (0, 1, 2**31)))
"""
FIXED = ["--seed", "1", "--threads", "1"]
SEEDED = ["--seed", "1", "--seed-chosen-after-data"]


def prepared(inputs: Path, folder: Path) -> None:
    """Photographs of several sizes, and small images of two classes as a folder and as shards."""
    photos = sorted((inputs / "bsds" / "train").glob("*.jpg"))[:4]
    for photo in photos:
        (folder / "photos" / "all").mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, folder / "photos" / "all")
    for name in ("cat", "ship"):
        for place, image in enumerate(sorted((inputs / "cifar10_test" / name).glob("*.png"))[:60]):
            split = folder / "small" / ("test" if place % 3 == 0 else "train") / name
            split.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, split)
    images = load_file(next((inputs / "cifar10_train").glob("*.safetensors")))["images"][:100]
    (folder / "shards").mkdir()
    save_file({"images": images, "labels": np.arange(100, dtype=np.int64) % 2}, folder / "shards" / "a.safetensors")


def dpclean(python: str, *arguments: object) -> None:
    command = [python, "-m", "dpclean", *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every data file."""
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".png", ".safetensors") and p.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def made(python: str, inputs: Path, out: Path) -> dict[str, object]:
    """What a version makes: digests by job, votes and claims."""
    noise = subprocess.run([python, "-c", NOISE], capture_output=True, text=True, check=True).stdout.split()
    found: dict[str, object] = {"noise": noise}
    for raw, options in (("photos", ["--dtype", "fp32"]), ("small", []), ("shards", ["--denoiser", "perceptual"])):
        dpclean(python, "sanitize", inputs / raw, "--sigma", 0.25, *FIXED, *options, "--out", out / raw)
        found[f"sanitize {raw}"] = digests(out / raw)
    dpclean(python, "train", out / "small", "--recipe", "tiny", *FIXED, "--out", out / "model")
    found["train"] = digests(out / "model")
    for threat in ("clean-test", "noised-test"):
        folder = out / threat
        terms: list[object] = ["--sigma", 0.25, "--runs", 24, "--recipe", "tiny", "--threat", threat, "--alpha", 0.1]
        dpclean(python, "certify", inputs / "small", *terms, *SEEDED, "--out", folder)
        votes = load_file(folder / "votes.safetensors")
        certificate = json.loads((folder / "certificate.json").read_text())
        found[f"certify {threat}"] = {
            "votes": {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in votes.items()},
            "tsv": hashlib.sha256((folder / "certified.tsv").read_bytes()).hexdigest(),
            "claims": {key: certificate[key] for key in certificate if key not in ("dpclean", "terms", "parameters")},
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("inputs", type=Path)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        prepared(a.inputs, inputs)
        before, after = (
            made(python, inputs, Path(folder) / name) for python, name in ((a.before, "before"), (a.after, "after"))
        )
    equal = {job: before[job] == after.get(job) for job in before}
    for job, same in equal.items():
        print(f"{job}: {'the same' if same else f'DIFFERENT: {before[job]} {after.get(job)}'}"[:3000])
    print(write_results("same_bytes", {"equal": equal}))
    sys.exit(0 if all(equal.values()) else 1)


if __name__ == "__main__":
    main()
