"""Certified accuracy of CIFAR-10 test images under changes of the image itself, and what a draw costs.

    python benchmarks/evasion_curve.py curve DATA --row NAME MODEL SIGMA LOCAL ... --out WORK [--images 500 --runs 1000]
    python benchmarks/evasion_curve.py speed DATA --model MODEL [--rounds 7] [--device cuda]

DATA: a folder of CIFAR-10 test images by class. MODEL: what `dpclean train` wrote. curve: what
`dpclean certify --threat evasion --local-smoothing LOCAL` (none: without) claims of every K-th test image, for each
denoiser and row. Rows of one sigma vote on the same denoised images, which cost the most; WORK keeps the votes, and
started again it goes on there, to more runs too; --told: only tell of those that are there. Other rows stay in
the result file.
speed: from image to vote, against a loop of diffusers' network eager in one step, torch's noise and the same model, in
the dtype that dpclean chooses, pair by pair; on a CPU the time is the process's own, and two runs are done together, as
a job does at least, to fill a batch of the model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from machine_facts import RESULTS, spread, write_results

from dpclean.certificate.certificate import build
from dpclean.certificate.votes import ABSTAIN, Votes
from dpclean.certify.options import CertifyOptions
from dpclean.certify.parameters import make_test_time_parameters
from dpclean.certify.run_settings import make_test_time_settings
from dpclean.certify.test_time_inputs import PointData, read_certified_images
from dpclean.certify.test_time_runs import TestTimeRuns
from dpclean.denoise.denoiser import DTYPES
from dpclean.denoise.loading import find_denoiser, load_through_diffusers
from dpclean.noise.keys import draw_key

DISTANCES = ("0", "0.25", "0.5", "1")
ALPHA, AT_ONCE = "0.001", 16  # risk of each image; runs between two savings
SPEED_SIGMA, SPEED_BATCH = "0.25", 128


def chosen(data: Path, count: int) -> list[Path]:
    """Every K-th image in the order of the test set, as the numbers in the names have it; every class in its share."""
    images = sorted(data.rglob("*.png"), key=lambda path: path.stem)
    return images[:: max(1, len(images) // count)][:count]


class Row(NamedTuple):
    name: str
    model: Path
    sigma: str
    local: str

    def __str__(self) -> str:
        return f"{self.name}-{self.sigma}-{self.local.replace(':', 'x')}"


def curve(a: argparse.Namespace) -> None:
    test = a.out / "test"
    if not test.exists():
        for path in chosen(a.data, a.images):
            target = a.out / "test.part" / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        (a.out / "test.part").rename(test)
    rows = [Row(name, Path(model), sigma, local) for name, model, sigma, local in a.row]
    found = [
        found_row
        for denoiser, sigma in itertools.product(a.denoiser, dict.fromkeys(row.sigma for row in rows))
        for found_row in of_sigma(a, test, denoiser, [row for row in rows if row.sigma == sigma])
    ]
    models = {row.name: told(row.model) for row in rows}
    write_results(a.name, {"alpha": ALPHA, "device": a.device, **beside_others(a.name, models, found)})


def beside_others(name: str, models: dict[str, dict[str, object]], found: list[dict[str, object]]) -> dict[str, object]:
    """Models and rows of the result file with these in place of those that measured the same, or after their like."""
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else {"models": {}, "rows": []}
    measured = itemgetter("denoiser", "sigma", "model", "local_smoothing")
    made = set(map(measured, found))
    kept = [row for row in before["rows"] if measured(row) not in made]
    used = {row["model"]: before["models"][row["model"]] for row in kept}
    if other := [model for model in used.keys() & models.keys() if used[model] != models[model]]:
        raise SystemExit(f"rows of other models called {', '.join(other)} are kept: give these another name")
    order = list(dict.fromkeys(measured(row)[:2] for row in before["rows"] + found))
    return {"models": used | models, "rows": sorted(kept + found, key=lambda row: order.index(measured(row)[:2]))}


def of_sigma(a: argparse.Namespace, test: Path, denoiser: str, rows: list[Row]) -> list[dict[str, object]]:
    """Of rows with one sigma, by as many runs as all of them have."""
    work = a.out / f"{denoiser}-{rows[0].sigma}.npz"
    kept = dict(np.load(work)) if work.exists() else {"key": np.frombuffer(draw_key(), np.uint8)}
    key = kept["key"].tobytes()
    all_runs = [test_time_runs(a, test, denoiser, row, key) for row in rows]
    first = all_runs[0]
    where = {index: place for place, index in enumerate(first.data.indices.tolist())}
    for row in rows:
        kept.setdefault(str(row), np.zeros((0, len(where)), np.int32))
    while not a.told and (begun := min(len(kept[str(row)]) for row in rows)) < a.runs:
        numbers = range(begun + 1, min(begun + AT_ONCE, a.runs) + 1)
        images = [
            (number, index, torch.from_numpy(image).to(first.denoiser.device))
            for number in numbers
            for index, image in zip(first.data.indices.tolist(), first.data.pixels, strict=True)
        ]
        ballots = {row: list[np.ndarray]() for row in rows if len(kept[str(row)]) == begun}
        denoised = first.denoiser.denoise_runs(images, key=key, test=True)
        while some := list(itertools.islice(denoised, first.trainer.recipe.predict_batch)):
            places = [(result.run - begun - 1) * len(where) + where[result.index] for result in some]
            finite = [result.finite for result in some]
            for row, runs in zip(rows, all_runs, strict=True):
                if row in ballots:
                    ballots[row].append(np.stack([places, np.where(finite, runs.votes(some), ABSTAIN)]))
        for row, parts in ballots.items():
            places, votes = np.concatenate(parts, axis=1)
            new = votes[np.argsort(places)].astype(np.int32).reshape(len(numbers), -1)
            kept[str(row)] = np.concatenate([kept[str(row)], new])
        np.savez(work.with_suffix(".part.npz"), **kept)
        work.with_suffix(".part.npz").rename(work)
        print(work.name, min(len(kept[str(row)]) for row in rows), flush=True)
    runs = min(a.runs, *(len(kept[str(row)]) for row in rows))
    return [certified(a, test, denoiser, row, kept[str(row)][:runs]) for row in rows]


def asked_for(a: argparse.Namespace, test: Path, denoiser: str, row: Row, runs: int) -> CertifyOptions:
    return CertifyOptions(
        threat="evasion", model=str(row.model), test=test, sigma=row.sigma, denoiser=denoiser, device=a.device,
        runs=runs, alpha=ALPHA, local_smoothing=None if row.local == "none" else row.local,
    )  # fmt: skip


def test_time_runs(a: argparse.Namespace, test: Path, denoiser: str, row: Row, key: bytes) -> TestTimeRuns:
    asked = asked_for(a, test, denoiser, row, a.runs)
    images = read_certified_images(asked)
    parameters = make_test_time_parameters(images, asked)
    settings = make_test_time_settings(images, asked, parameters)
    return TestTimeRuns(settings, key, PointData.of(images.points), parameters.runs)


def certified(a: argparse.Namespace, test: Path, denoiser: str, row: Row, votes: np.ndarray) -> dict[str, object]:
    """Of all images, the share with the right class and a radius of at least each distance; at 0 any claim counts."""
    asked = asked_for(a, test, denoiser, row, len(votes))
    images = read_certified_images(asked)
    labels = np.asarray(images.points.labels, np.int64)
    certificate = build(Votes(votes, labels, None, make_test_time_parameters(images, asked)), "")
    points = certificate["points"]
    right = [float(point["certified_radius"]) for point in points if point["class"] == point["label"]]
    found = {
        "model": row.name,
        "sigma": row.sigma,
        "denoiser": denoiser,
        "local_smoothing": row.local,
        "images": len(points),
        "runs": len(votes),
        "abstained": certificate["summary"]["abstained"],
        "ceiling": certificate["summary"]["ceiling"],
        "certified_accuracy": {
            distance: round(sum(radius >= float(distance) for radius in right) / len(points), 4)
            for distance in DISTANCES
        },
    }
    print(json.dumps(found), flush=True)
    return found


def told(model: Path) -> dict[str, object]:
    """What decides about a model: its weights, its recipe, and how its training images were noised."""
    fields = json.loads((model / "model.json").read_text())
    data, accuracy = fields["data"], fields["accuracy"]
    return {
        "weights_sha256": fields["weights_sha256"],
        "recipe": fields["recipe"]["name"],
        "images": data["images"],
        "sigma": data["sigma"],
        "sigma_augment": fields.get("sigma_augment", {}).get("sigma"),
        "accuracy": accuracy and accuracy["correct"] / accuracy["images"],
    }


def speed(a: argparse.Namespace) -> None:
    a.out.mkdir(parents=True, exist_ok=True)
    folder = a.out / "speed"
    for path in chosen(a.data, SPEED_BATCH):
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    rows = []
    for denoiser in a.denoiser:
        asked = CertifyOptions(
            threat="evasion", model=str(a.model), test=folder, sigma=SPEED_SIGMA, denoiser=denoiser,
            device=a.device,
        )  # fmt: skip
        certified = read_certified_images(asked)
        parameters = make_test_time_parameters(certified, asked)
        settings = make_test_time_settings(certified, asked, parameters)
        runs = TestTimeRuns(settings, draw_key(), PointData.of(certified.points), parameters.runs)
        together = runs.at_once if runs.denoiser.device.type == "cuda" else 2
        loop = eager_loop(runs, certified.points.pixels, together)
        seconds = timed({"dpclean": own_draws(runs, together), "diffusers": loop}, a.rounds, runs.denoiser.device)
        draws = together * len(certified.points)
        per_draw = {name: spread([1e3 * each / draws for each in times]) for name, times in seconds.items()}
        ratios = [slow / fast for slow, fast in zip(seconds["diffusers"], seconds["dpclean"], strict=True)]
        rows.append({"denoiser": denoiser, "dtype": runs.denoiser.dtype, "ms": per_draw, "ratio": spread(ratios)})
        print(json.dumps(rows[-1]), flush=True)
    threads = torch.get_num_threads()
    write_results(f"{a.name}_speed", {"device": a.device, "batch": SPEED_BATCH, "threads": threads, "rows": rows})


def own_draws(runs: TestTimeRuns, together: int) -> Callable[[], None]:
    numbers = itertools.count(1)

    def draw() -> None:
        for _ in runs.results(list(itertools.islice(numbers, together))):
            pass

    return draw


def eager_loop(runs: TestTimeRuns, pixels: list[np.ndarray], together: int) -> Callable[[], None]:
    """Noise, one step of diffusers' network, and the model, as one would write it down."""
    device, level, trainer = runs.denoiser.device, runs.denoiser.level, runs.trainer
    dtype = DTYPES[runs.denoiser.dtype]
    network = load_through_diffusers(find_denoiser(runs.denoiser.id))
    network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last).eval()
    patch = int(network.config.get("patch_size", 1) or 1)
    timestep, abar = torch.tensor(level.timestep, device=device), level.alphas_cumprod
    images = torch.from_numpy(np.stack(pixels)).to(device)

    @torch.inference_mode()
    def once() -> None:
        x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        noised = abar**0.5 * (x + 2 * level.sigma * torch.randn_like(x))
        inputs = noised.to(dtype, memory_format=torch.channels_last)
        if patch > 1:
            inputs = torch.nn.functional.pixel_unshuffle(inputs, patch)
        predicted = network(inputs, timestep).sample
        if patch > 1:
            predicted = torch.nn.functional.pixel_shuffle(predicted, patch)
        kind = runs.denoiser.schedule.prediction_type
        if kind == "v_prediction":
            clean = abar**0.5 * noised - (1 - abar) ** 0.5 * predicted.float()
        else:
            clean = (noised - (1 - abar) ** 0.5 * predicted.float()) / abar**0.5
        levels = ((clean + 1) * 127.5).clamp(0, 255).round()
        trainer.network.eval()
        normalized = (levels - trainer.mean) / trainer.std
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = trainer.network(normalized) + trainer.network(normalized.flip(3))
        logits.argmax(1).cpu()

    def loop() -> None:
        for _ in range(together):
            once()

    return loop


def timed(what: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each in turn; the first round is thrown away."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in what}
    for number in range(rounds + 1):
        for name, do in what.items():
            begun = clock()
            do()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                seconds[name].append(clock() - begun)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("curve", "speed"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--row", nargs=4, action="append", default=[], metavar=("NAME", "MODEL", "SIGMA", "LOCAL"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path, default=Path("evasion-work"))
    parser.add_argument("--name", default="evasion_curve")
    parser.add_argument("--denoiser", nargs="+", default=["natural", "perceptual"])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--told", action="store_true")
    a = parser.parse_args()
    (curve if a.part == "curve" else speed)(a)


if __name__ == "__main__":
    main()
