"""The whole `dpclean sanitize` command against loops that people write by hand.

    python benchmarks/sanitize_whole.py shards INPUTS [--images 50000] [--rounds 3]
    python benchmarks/sanitize_whole.py folder INPUTS [--rounds 3]
    python benchmarks/sanitize_whole.py overhead INPUTS [--rounds 3] [--beside CHECKOUT ...]

shards: CIFAR-10 train shards to shards, against a bare loop over dpclean's own denoiser with the data in memory and
nothing written. Two ratios: loop seconds alone (imports, loading and set-up not counted) and whole process.
folder: the 10,000 PNG of CIFAR-10 test to PNG, against DataLoader + Pillow around the same weights as diffusers runs
them (same dtype, channels-last), whole process each.
overhead: what `sanitize` itself costs an image of CIFAR-10 train, in microseconds of processor time by stage, shards to
shards on one thread: noise and network are taken out, images leave the denoiser as they came, in batches of a GPU.
--beside: built checkouts of other versions, which take turns with this one.
INPUTS is what make_inputs.py made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from machine_facts import REPOSITORY, spread, write_results

SIGMA = "0.25"


def timed(command: list[str]) -> tuple[float, str, float]:
    """(seconds, standard output, peak memory of the main process in MiB) of a whole process."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        if status:
            sys.exit(f"sanitize_whole: {command} ended with {os.waitstatus_to_exitcode(status)}")
        output.seek(0)
        return seconds, output.read(), usage.ru_maxrss / 1024


def sanitize(raw: Path, out: Path, limit: int) -> tuple[float, float]:
    """(seconds, peak memory in MiB) of the whole command; its output is removed."""
    command = [sys.executable, "-m", "dpclean", "sanitize", str(raw), "--sigma", SIGMA, "--out", str(out), "--quiet"]
    seconds, _, peak = timed([*command, "--limit", str(limit)])
    shutil.rmtree(out)
    return seconds, peak


def bare_loop(shards: Path, images: int) -> None:
    """The rival of `shards`: this function runs in a process of its own and prints its loop's seconds."""
    import numpy as np
    import torch
    from safetensors.numpy import load_file

    from dpclean.denoise.denoiser import DTYPES, Denoiser
    from dpclean.denoise.loading import find_denoiser
    from dpclean.noise import to_model_input, to_uint8

    data = np.concatenate([load_file(path)["images"] for path in sorted(shards.glob("*.safetensors"))])[:images]
    denoiser = Denoiser(find_denoiser("natural"), float(SIGMA))
    batch, level = denoiser.shapes.batch(32, 32), denoiser.level
    begun = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(data), batch):
            rows = torch.from_numpy(data[start : start + batch]).to(denoiser.device)
            indices = np.arange(start, start + len(rows))
            x = to_model_input(
                rows,
                level.sigma,
                level.alphas_cumprod,
                key=bytes(32),
                run=0,
                indices=indices,
                dtype=DTYPES[denoiser.dtype],
            )
            e = denoiser._predict(x)
            to_uint8(x, e, level.alphas_cumprod, prediction_type=denoiser.schedule.prediction_type)[0].cpu()
    print(time.perf_counter() - begun)


def plain_pipeline(raw: Path, out: Path) -> None:
    """The rival of `folder`: what a careful user writes with DataLoader, Pillow and diffusers."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2 import PILToTensor

    from dpclean.denoise.denoiser import DTYPES, choose_dtype
    from dpclean.denoise.loading import find_denoiser, load_schedule, load_through_diffusers
    from dpclean.denoise.schedule import match
    from dpclean.device import choose_device

    torch.manual_seed(0)
    files = find_denoiser("natural")
    dtype = DTYPES[choose_dtype("auto", choose_device("cpu"))]
    network = load_through_diffusers(files).to(dtype=dtype, memory_format=torch.channels_last)
    alphas_cumprod, prediction_type, _ = load_schedule(files)
    assert prediction_type == "v_prediction"
    level = match(alphas_cumprod, float(SIGMA))
    abar, timestep = level.alphas_cumprod, torch.tensor(level.timestep)
    dataset = ImageFolder(str(raw), transform=PILToTensor())
    loader = DataLoader(dataset, batch_size=64, num_workers=2)
    for name in dataset.classes:
        (out / name).mkdir(parents=True)
    position = 0
    with torch.inference_mode():
        for images, _ in loader:
            x = images.float() / 127.5 - 1
            x = abar**0.5 * (x + 2 * float(SIGMA) * torch.randn_like(x))
            x = x.to(dtype, memory_format=torch.channels_last)
            v = network(x, timestep).sample.float()
            clean = (abar**0.5 * x.float() - (1 - abar) ** 0.5 * v).clamp(-1, 1)
            pixels = ((clean + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
            for image in pixels:
                path = Path(dataset.samples[position][0])
                Image.fromarray(image).save(out / path.parent.name / path.name)
                position += 1


def rival(*arguments: str) -> tuple[float, str]:
    seconds, printed, _ = timed([sys.executable, "-W", "ignore", os.path.abspath(__file__), *arguments])
    return seconds, printed


def shards(inputs: Path, images: int, rounds: int, scratch: Path) -> dict[str, object]:
    raw = inputs / "cifar10_train"
    loop, whole, peaks = [], [], {images // 10: sanitize(raw, scratch / "out", images // 10)[1]}
    for _ in range(rounds):
        command, peaks[images] = sanitize(raw, scratch / "out", images)
        process, printed = rival("bare-loop", str(raw), "--images", str(images))
        loop.append(float(printed) / command)
        whole.append(process / command)
        print(f"command {command:.1f} s, rival {process:.1f} s, of which loop {float(printed):.1f} s", flush=True)
    ratios = {"loop_seconds_over_command": spread(loop), "process_over_command": spread(whole)}
    return {"images": images, "peak_mib_by_images": peaks, **ratios}


def folder(inputs: Path, images: int, rounds: int, scratch: Path) -> dict[str, object]:
    raw = inputs / "cifar10_test"
    ratios, peaks = [], {images // 10: sanitize(raw, scratch / "out", images // 10)[1]}
    for _ in range(rounds):
        command, peaks[images] = sanitize(raw, scratch / "out", images)
        process, _ = rival("plain-pipeline", str(raw), "--out", str(scratch / "plain"))
        shutil.rmtree(scratch / "plain")
        ratios.append(process / command)
        print(f"command {command:.1f} s, rival {process:.1f} s", flush=True)
    return {"images": images, "peak_mib_by_images": peaks, "process_over_command": spread(ratios)}


# where the processor is, by the innermost of dpclean's files
STAGES = {
    "read": ("data/sources/", "data/shard", "data/safe_open"),
    "hash": ("data/digest", "kernels"),
    "batches": ("denoise/", "noise/"),
    "write": ("data/sinks/", "jobs/durable"),
    "ledger": ("pipeline/ledger",),
    "order and records": ("pipeline/work", "pipeline/listing", "data/records", "data/names", "data/selection"),
    "manifest, ancestry, sums": ("pipeline/save", "data/ancestry", "data/manifest"),
}
PARTS = ("begin", "work", "save")  # of the job, in which all of it is done


def take_out_the_denoiser() -> None:
    """Of every Denoiser made from now on: its batches are those of a GPU, and what it does to images is nothing."""
    import torch

    from dpclean.denoise import denoiser

    pixels = denoiser.PREFERRED_BATCH_PIXELS["cpu"] = denoiser.PREFERRED_BATCH_PIXELS["cuda"]
    denoiser.AHEAD["cpu"] = denoiser.AHEAD["cuda"]

    def blank(_: object, batch: int, height: int, width: int) -> torch.Tensor:
        return torch.empty((batch, height, width, 3), dtype=torch.uint8).movedim(3, 1)

    def finish(_: object, images: torch.Tensor, prediction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.movedim(1, 3).contiguous(), torch.ones(len(images), dtype=torch.bool)

    whole: Any = denoiser.Denoiser
    whole._find_batch_pixels = lambda self, asked: pixels
    whole._blank, whole._finish = blank, finish
    whole._noised_each = lambda self, images, members, out: out.copy_(images.movedim(3, 1))
    whole._predict = lambda self, batch, evaluations=None, noise=None: batch


def overhead_once(raw: Path, out: Path) -> None:
    """One job in a process of its own; prints microseconds an image, by part and by stage, as JSON."""
    import dpclean
    from dpclean.pipeline import job, sanitize

    take_out_the_denoiser()
    package = os.path.dirname(str(dpclean.__file__)) + os.sep
    seen: Counter[str] = Counter()
    spent: dict[str, float] = {}
    inside = False

    def look(_: int, frame: FrameType | None) -> None:
        while inside and frame is not None:
            if frame.f_code.co_filename.startswith(package):
                name = frame.f_code.co_filename.removeprefix(package)
                seen[next((stage for stage, files in STAGES.items() if name.startswith(files)), "other")] += 1
                return
            frame = frame.f_back

    def timed_part(name: str) -> Callable[..., Any]:
        part = getattr(job.SanitizeJob, name)

        def run(*arguments: Any) -> Any:
            nonlocal inside
            inside, begun = True, time.process_time()
            result = part(*arguments)
            inside, spent[name] = False, time.process_time() - begun
            return result

        return run

    for name in PARTS:
        setattr(job.SanitizeJob, name, timed_part(name))
    signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    images = sanitize(raw, out, sigma=float(SIGMA), seed=1, threads=1, device="cpu").images
    signal.setitimer(signal.ITIMER_PROF, 0)
    total, looks = sum(spent.values()) / images * 1e6, sum(seen.values())
    parts = {name: seconds / images * 1e6 for name, seconds in spent.items()}
    print(json.dumps({"all": total, **parts, **{stage: total * seen[stage] / looks for stage in (*STAGES, "other")}}))


def ways(folder: Path) -> list[dict[str, object]]:
    """The ways that were tried for what is done for every image, one beside the other: microseconds an image."""
    import sqlite3
    from dataclasses import make_dataclass
    from hashlib import blake2b, sha256

    import msgspec
    import numpy as np
    import torch

    images = np.random.default_rng(0).integers(0, 256, (1024, 32, 32, 3), np.uint8)
    rows, numbers, digest = list(images), range(1024), bytes(32)
    names = [f"train-00000.safetensors#{number}" for number in numbers]
    plain = make_dataclass("plain", "abcde", frozen=True, slots=True)
    struct: Any = msgspec.defstruct("struct", [*"abcde"], frozen=True)
    columns = "position INTEGER PRIMARY KEY, name BLOB, status TEXT, raw BLOB, clean BLOB"
    data = sqlite3.connect(folder / "ways.sqlite", isolation_level=None)
    data.execute(f"CREATE TABLE samples ({columns})")

    def identity(number: int) -> bytes:
        return blake2b(number.to_bytes(12, "little") + names[number].encode(), digest_size=16).digest()

    def named() -> list[bool]:
        return [(number, f"train-00000.safetensors#{number}") == (number, names[number]) for number in numbers]

    def renew() -> None:
        data.execute("DELETE FROM samples")
        data.executemany("INSERT INTO samples VALUES (?, ?, 'pending', NULL, NULL)", enumerate(names))

    def renew_from_json() -> None:
        data.execute("DELETE FROM samples")
        listed = "SELECT key, CAST(value AS BLOB), 'pending', NULL, NULL FROM json_each(?)"
        data.execute(f"INSERT INTO samples {listed}", (json.dumps(names),))

    def one_by_one() -> None:
        update = "UPDATE samples SET status = ?, raw = ?, clean = ? WHERE position = ? AND name = ? AND status = ?"
        data.executemany(update, (("done", digest, digest, n, names[n], "pending") for n in numbers))

    def together() -> None:
        data.execute("SELECT position, name FROM samples WHERE status = 'pending'").fetchall()
        part = "substr(?, 1 + 32 * position, 32)"
        update = f"UPDATE samples SET status = 'done', raw = {part}, clean = {part} WHERE position BETWEEN ? AND ?"
        data.execute(update, (digest * 1024, digest * 1024, 0, 1023))

    def anew() -> None:
        data.executemany(
            "REPLACE INTO samples VALUES (?, ?, 'done', ?, ?)", ((n, names[n], digest, digest) for n in numbers)
        )

    tried: list[tuple[str, str, bool, Callable[[], object], Callable[[], object]]] = [
        ("a record of five fields", "frozen dataclass", False, lambda: [plain(1, 2, 3, 4, 5) for _ in numbers], int),
        ("a record of five fields", "msgspec struct", True, lambda: [struct(1, 2, 3, 4, 5) for _ in numbers], int),
        ("which row it is", "two digests compared", False, lambda: [identity(n) == identity(n) for n in numbers], int),
        ("which row it is", "index and name compared", True, named, int),
        ("SHA-256 of its pixels", "hashlib", True, lambda: [sha256(row).digest() for row in rows], int),
        ("into one batch", "torch.stack", False, lambda: torch.stack([torch.from_numpy(row) for row in rows]), int),
        ("into one batch", "numpy.stack", False, lambda: np.stack(rows), int),
        ("into one batch", "numpy.concatenate", True, lambda: np.concatenate(rows), int),
        ("listed in the ledger", "a statement a row", True, renew, int),
        ("listed in the ledger", "one statement, JSON (text names only)", False, renew_from_json, int),
        ("recorded in the ledger", "a statement a row", False, one_by_one, renew),
        ("recorded in the ledger", "a row in the place of another", False, anew, renew),
        ("recorded in the ledger", "one statement for neighbours, checked before", True, together, renew),
    ]  # fmt: skip
    found: list[dict[str, object]] = []
    for what, how, taken, way, prepare in tried:
        best = float("inf")
        for _ in range(15):
            data.execute("BEGIN")
            prepare()
            begun = time.process_time()
            way()
            best = min(best, time.process_time() - begun)
            data.execute("COMMIT")
        found.append({"what": what, "how": how, "taken": taken, "us_an_image": round(best / 1024 * 1e6, 2)})
    return found


def overhead_of(checkout: Path, raw: Path, out: Path) -> dict[str, float]:
    """Microseconds an image of one job in a process of its own; its output is removed."""
    command = [sys.executable, __file__, "overhead-once", str(raw), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    shutil.rmtree(out)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def overhead(inputs: Path, rounds: int, scratch: Path, beside: list[Path]) -> dict[str, object]:
    found: dict[Path, list[dict[str, float]]] = {checkout.resolve(): [] for checkout in [*beside, REPOSITORY]}
    for _ in range(rounds):
        for checkout, measured in found.items():
            measured.append(overhead_of(checkout, inputs / "cifar10_train", scratch / "out"))
            print(checkout.name, {name: round(value, 1) for name, value in measured[-1].items()}, flush=True)
    versions = []
    for checkout, measured in found.items():
        describe = ["git", "-C", str(checkout), "log", "-1", "--format=%h %s", "--", "dpclean", "csrc"]
        commit = subprocess.run(describe, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        medians = {name: round(statistics.median(row[name] for row in measured), 2) for name in measured[0]}
        versions.append({"commit": commit, "us_an_image": medians})
    return {"images": 50_000, "rounds": rounds, "versions": versions, "ways": ways(scratch)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=("shards", "folder", "overhead", "bare-loop", "plain-pipeline", "overhead-once")
    )
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--beside", type=Path, nargs="*", default=[], metavar="CHECKOUT")
    a = parser.parse_args()
    if a.what == "bare-loop":
        return bare_loop(a.inputs, a.images)
    if a.what == "plain-pipeline":
        return plain_pipeline(a.inputs, a.out)
    if a.what == "overhead-once":
        return overhead_once(a.inputs, a.out)
    with tempfile.TemporaryDirectory(dir=a.inputs) as scratch:
        if a.what == "overhead":
            measured = overhead(a.inputs, a.rounds, Path(scratch), a.beside)
        elif a.what == "shards":
            measured = shards(a.inputs, a.images, a.rounds, Path(scratch))
        else:
            measured = folder(a.inputs, 10_000, a.rounds, Path(scratch))
    print(measured)
    print(write_results(f"sanitize_{a.what}", measured))


if __name__ == "__main__":
    main()
