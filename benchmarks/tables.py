"""Put the measured figures into the documentation: README.md, docs/benchmarks.md and the cards of the denoisers.

    python benchmarks/tables.py

Reads benchmarks/results/*.json and rewrites what stands between `<!-- figures: NAME -->` and `<!-- end -->`. No figure
there is typed by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from machine_facts import REPOSITORY, RESULTS

from dpclean.certificate.whole_images import WORD

CARDS = (f"dpclean/denoise/{name}/README.md" for name in ("natural", "perceptual"))
DOCUMENTS = ("README.md", "docs/benchmarks.md", *CARDS)
TITLES = {"noised": "noised", "natural": "`natural`", "perceptual": "`perceptual`", "ffdnet": "FFDNet"}


def load(name: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return fields


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def where(name: str) -> str:
    machine = load(name)["machine"]
    return f"{machine['cpu']}, {machine['cores']} core(s), torch {machine['packages']['torch']}"


def ratio(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} x ({value['q1']:.2f} to {value['q3']:.2f})"


def accuracy() -> str:
    rows = load("denoiser_quality")["accuracy"]
    names = list(rows[0]["accuracy"]["ResNet-56"])
    lines = [
        (f"{row['sigma']:g}", kind, *(f"{100 * row['accuracy'][kind][name]:.1f} %" for name in names))
        for kind in rows[0]["accuracy"]
        for row in rows
    ]
    return (
        f"Accuracy of two classifiers, trained on clean CIFAR-10, on the first {rows[0]['images']:,} test images, "
        "sanitized (`benchmarks/denoiser_quality.py`):\n\n"
        + table(("sigma", "classifier", *[TITLES[name] for name in names]), lines)
    )


def psnr() -> str:
    rows = load("denoiser_quality")["psnr"]
    names = list(rows[0]["psnr"])
    lines = [(row["images"], f"{row['sigma']:.3g}", *(f"{row['psnr'][name]:.2f}" for name in names)) for row in rows]
    return (
        "PSNR in dB, mean of the per-image values: the first 256 exact images of CIFAR-10 test and the 68 of CBSD68 "
        "(`benchmarks/denoiser_quality.py`; FFDNet, Zhang et al. 2018, on the very same noised images):\n\n"
        + table(("images", "sigma", *[TITLES[name] for name in names]), lines)
    )


def shapes() -> str:
    result = load("denoiser_shapes")
    sigmas = ("0.05", "0.125", "0.25", "0.5")
    rows = [
        (
            name,
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['images_per_second_and_core']:.0f}",
            f"{row['steps']}",
            *(f"{row[size][sigma]:.2f}" for size in ("small", "large") for sigma in sigmas),
        )
        for name, row in result["rows"].items()
    ]
    head = ("network", "weights", "images/s", "steps")
    return (
        f"PSNR in dB after {result['seconds']:g} CPU seconds of training each, from random weights, on photos held out "
        f"from the {result['images']:,} that they were trained on, at 32 and 64 pixels; images of 32 pixels a second "
        f"on one core ({where('denoiser_shapes')}, `benchmarks/denoiser_shapes.py`; widths by level, on pixels or on "
        "patches of 2 x 2; "
        f"{result['defaults']}, unless it says otherwise):\n\n"
        + table((*head, *(f"{edge} px, {sigma}" for edge in (32, 64) for sigma in sigmas)), rows)
    )


def costs() -> str:
    """What README says at a glance."""
    trained = {(row["sigma"], row["denoiser"]): row for row in load("sanitized_accuracy")["rows"]}
    seen = {row["sigma"]: row["accuracy"]["ResNet-56"] for row in load("denoiser_quality")["accuracy"]}
    both = ("natural", "perceptual")
    rows = [
        (
            f"{sigma:g}",
            *(percent(trained[sigma, denoiser]["clean_test"]) for denoiser in both),
            *(percent(seen[sigma][denoiser]) for denoiser in both),
        )
        for sigma in sorted({sigma for sigma, _ in trained})
    ]
    rate = load("denoiser_speed")
    small, photos = rate["images_per_second"]["natural dpclean"]["median"], rate["megapixels_per_second"]["median"]
    (_, few), (many, much) = load("sanitize_folder")["peak_mib_by_images"].items()
    head = (
        "sigma",
        *(f"trained on it, {TITLES[name]}" for name in both),
        *(f"shown it, {TITLES[name]}" for name in both),
    )
    images = trained[0.25, "natural"]["images"]
    return (
        f"Accuracy on CIFAR-10 of a model trained on {images:,} sanitized images, tested on clean ones, and of a "
        "ResNet-56 that was trained on clean images and is shown sanitized ones (`benchmarks/sanitized_accuracy.py`, "
        "`denoiser_quality.py`):\n\n"
        + table(head, rows)
        + f"\n\nOne core ({rate['machine']['cpu']}) sanitizes {small:.0f} images of 32 x 32 a second, 50,000 in "
        f"{50_000 / small:.0f} seconds, and {photos:.2f} megapixels of photographs. Memory: {few:,.0f} MiB, "
        f"{much:,.0f} for {int(many):,} images (`benchmarks/denoiser_speed.py`, `sanitize_whole.py`)."
    )


def speed() -> str:
    columns = {
        "matrix units": "denoiser_speed",
        "bfloat16 in vectors": "denoiser_speed_amd",
        "AVX2 only, float32": "denoiser_speed_avx2",
    }
    results = {title: load(name) for title, name in columns.items()}
    first, *others = results.values()
    rows = [
        (name, ratio(value), *(ratio(o["ratios"][name]) if name in o["ratios"] else "not measured" for o in others))
        for name, value in first["ratios"].items()
    ]
    places = "; ".join(f"{title}: {where(name)}" for title, name in columns.items())
    return (
        f"Images a second of CPU time at 32 x 32 (photos: of 481 x 321, uint8 to uint8), batch {first['batch']}, in "
        "the dtype that dpclean chooses, medians and quartiles of pairwise ratios, on processors with matrix units for "
        f"bfloat16, with products of it in vectors, and with neither ({places}; `benchmarks/denoiser_speed.py`; `ddpm` "
        "is the 35.7 M DDPM-CIFAR U-Net, `diffusers` eager and channels-last, `compiled` torch.compile with frozen "
        "weights, `dpclean` this engine):\n\n" + table(("", *columns), rows)
    )


def sizes() -> str:
    result = load("image_sizes")
    edges = sorted((int(edge), value) for edge, value in result["time a pixel against 128 px"].items())
    calls, loader = result["few images"], result["data loader"]
    rows = []
    for edge in (32, 64, 224):
        one, few, many = (calls[f"{count} of {edge} px, ms"] for count in (1, 8, 128))
        rows.append((f"{edge} px", f"{one:.1f} ms", f"{one / many * 128:.2f} x", f"{few / many * 16:.2f} x"))
    return (
        f"Time a pixel of `natural`, uint8 to uint8, one thread, against images of 128 px, on {where('image_sizes')} "
        "(`benchmarks/image_sizes.py`): "
        + ", ".join(f"{edge} px {value['median']:.2f} x" for edge, value in edges)
        + ".\n\n`Sanitizer` called with few images, against their share of a call with 128:\n\n"
        + table(("", "one image", "one, against its share", "eight, against their share"), rows)
        + "\n\nAs the transform of a data set of 64 px: "
        + ", ".join(f"{name.removesuffix(', images/s')} {rate:.0f} images/s" for name, rate in loader.items())
        + "."
    )


def memory(result: dict[str, Any]) -> str:
    (few, small), (many, large) = result["peak_mib_by_images"].items()
    return f"{small:,.0f} MiB for {int(few):,} images, {large:,.0f} MiB for {int(many):,}"


def whole() -> str:
    shards, folder = load("sanitize_shards"), load("sanitize_folder")
    rows = [
        (
            f"shards to shards, {shards['images']:,} images",
            "bare loop over the same denoiser, data in memory, nothing written; its loop alone",
            ratio(shards["loop_seconds_over_command"]),
        ),
        ("the same", "the same, whole process", ratio(shards["process_over_command"])),
        (
            f"PNG folder to PNG folder, {folder['images']:,} images",
            "DataLoader, Pillow and the same weights in diffusers, whole process",
            ratio(folder["process_over_command"]),
        ),
    ]
    return (
        f"The whole command on 32 x 32 images, rival's time over ours, on {where('sanitize_shards')} "
        "(`benchmarks/sanitize_whole.py`):\n\n"
        + table(("job", "against", "ratio"), rows)
        + f"\n\nPeak memory of the main process: shards {memory(shards)}; folder {memory(folder)}."
    )


def overhead() -> str:
    result = load("sanitize_overhead")
    versions, commits = result["versions"], [version["commit"].split()[0] for version in result["versions"]]
    before, now = (versions[place]["us_an_image"]["all"] for place in (0, -1))
    stages = [(name, *(f"{v['us_an_image'][name]:.1f}" for v in versions)) for name in versions[0]["us_an_image"]]
    ways = [
        (row["what"], row["how"], f"{row['us_an_image']:.2f}", ("no", "yes")[row["taken"]]) for row in result["ways"]
    ]
    return (
        "What `sanitize` itself costs an image of 32 x 32, without noise and denoiser: microseconds of processor time, "
        f"{result['images']:,} images from shards to shards on one thread, medians of {result['rounds']} on "
        f"{where('sanitize_overhead')}, versions by their commits (`benchmarks/sanitize_whole.py overhead`). Other "
        f"work kept the machine busy (load {result['machine']['load']:.0f}), which makes all of them dearer; the last "
        f"over the first is {now / before:.2f}. Begin, work and save are the parts of the job, the rows below them "
        "where the time goes:\n\n"
        + table(("", *commits), stages)
        + "\n\nWays that were tried for what is done for each image, microseconds an image:\n\n"
        + table(("what", "how", "cost", "taken"), ways)
    )


def kernels() -> str:
    result = load("noise_kernels")
    rows = [
        (row["what"], row["kernel"], f"{row['ratio']['median']:.2f} x", f"{row['ns_per_sample']:.2f} ns")
        for row in result["rows"]
        if row["kernel"] != "torch" and row["what"].startswith(("noise 0.25", "back"))
    ]
    return (
        "Kernels on one core against torch (noise: `normal_` in place and a cast; back: the unfused chain), "
        f"{result['images']:,} images of 32 x 32, on {where('noise_kernels')} (`benchmarks/noise_kernels.py`):\n\n"
        + table(("job, sigma, layout", "kernel", "ratio", "a sample"), rows)
    )


def in_domain() -> str:
    result = load("in_domain")
    rows = [(f"{row['sigma']:g}", f"{row['natural']:.2f}", f"{row['own']:.2f}") for row in result["rows"]]
    return (
        f"PSNR in dB on {result['held_out']:,} images held out, before and after {result['minutes']:g} minutes of "
        f"`denoiser fit --init natural` on {result['trusted']:,} others of their kind (CIFAR-10 test and train, as if "
        f"the latter were trusted), on {where('in_domain')} (`benchmarks/in_domain.py`):\n\n"
        + table(("sigma", "natural", "fitted further"), rows)
        + "\n\n"
        + in_domain_ways()
    )


def in_domain_ways() -> str:
    result = load("in_domain_ways")
    natural, sigmas = result["psnr"]["natural"], list(result["psnr"]["natural"])
    rows = [
        (way, *(f"{psnr[sigma] - natural[sigma]:+.3f}" for sigma in sigmas))
        for way, psnr in result["psnr"].items()
        if way != "natural"
    ]
    return (
        f"How far {result['patches']:,} patches take it, by batch and learning rate: dB gained on {result['held_out']} "
        f"of these images, on {where('in_domain_ways')}:\n\n" + table(("", *sigmas), rows)
    )


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def training() -> str:
    result = load("training_speed")
    peer, recipe = result["accuracy"]
    seconds = sorted(result["seconds"][recipe])
    rows = [
        (peer, f"{result['seconds'][peer][0]:.0f} s", percent(result["accuracy"][peer][0])),
        (recipe, f"{seconds[len(seconds) // 2]:.0f} s", ", ".join(map(percent, result["accuracy"][recipe]))),
    ]
    return (
        f"Training on {result['images']:,} CIFAR-10 images until {percent(result['level'])}, 90 % of what ResNet-18 "
        f"with SGD ends with: {result['ratio']:.1f} x faster (median of {len(seconds)}), on {where('training_speed')} "
        "(`benchmarks/training_speed.py`):\n\n"
        + table(("recipe", "training until then", "accuracy at the end, all test images"), rows)
    )


def sanitized() -> str:
    rows = [
        (
            f"{row['sigma']:g}",
            TITLES[row["denoiser"]],
            f"{row['images']:,}",
            percent(row["clean_test"]),
            percent(row["noised_test"]),
            percent(row["paper_50000"]),
        )
        for row in load("sanitized_accuracy")["rows"]
    ]
    head = (
        "sigma",
        "denoiser",
        "training images",
        "clean test images",
        "test images noised and denoised",
        "paper, 50,000 images",
    )
    return (
        "Accuracy of one model trained on sanitized CIFAR-10 with the recipe `fast`, 10,000 test images, beside the "
        "figures of the paper (`benchmarks/sanitized_accuracy.py`):\n\n" + table(head, rows)
    )


def certification() -> str:
    run, check = load("certification_run"), load("verify_speed")
    rows = [(name.removesuffix(" / dpclean"), ratio(value)) for name, value in run["ratios"].items()]
    seconds = check["bounds"]["multiclass"]["seconds"]["median"]
    return (
        f"One certification run on {run['images']:,} CIFAR-10 images and {run['points']:,} test points, recipe "
        f"`{run['recipe']['name']}`, against a script around the same denoiser in diffusers and the same network "
        f"for the same epochs (`benchmarks/certification_run.py`), CPU time on {where('certification_run')}:\n\n"
        + table(("the script trains in", "its time over ours"), rows)
        + f"\n\n`dpclean verify` of {check['runs']:,} runs on {check['points']:,} points takes {seconds:.0f} s on one "
        "core (`benchmarks/verify_speed.py`)."
    )


def verify_share() -> str:
    result = load("verify_speed_share")
    made = result["bounds"]["multiclass"]
    return (
        f"Of {result['runs']:,} runs on a share of noised images, with {made['different_counts']:,} different counts "
        "each with numbers of images and a witness, it takes "
        f"{made['processor_seconds']['median']:.0f} s of processor time on one core "
        f"(`--runs {result['runs']} --subsample {result['subsample'] / WORD:.2g} --bound multiclass`; "
        f"{made['seconds']['median']:.0f} s by the clock on a machine that was busy with other work)."
    )


def gpu() -> str:
    """One table a kind of card."""
    return "\n\n".join(card(path.stem) for path in sorted(RESULTS.glob("gpu_check*.json")))


def card(name: str) -> str:
    """Whatever parts have been measured so far; what failed shows no figure."""
    result = load(name)
    parts = {name: part["result"] for name, part in result["parts"].items() if part["status"] == "ok"}
    rows: list[tuple[str, str]] = []
    for name, row in {**parts.get("noise", {}), **parts.get("group_norm", {})}.items():
        kind = "GroupNorm + SiLU, " if name in parts.get("group_norm", {}) else ""
        bandwidth = percent(row["share of bandwidth"])
        rows.append((kind + name, f"{row['ratio']:.2f} x, {bandwidth} of a copy's bandwidth"))
    for name, row in {**parts.get("denoiser", {}), **parts.get("compiled", {})}.items():
        if isinstance(row, dict):
            rows.extend((f"the network, {name}", f"{value:,.0f} {unit}") for unit, value in row.items())
    if "denoiser" in parts:
        rows.append(("denoiser, uint8 to uint8, 32 px", f"{parts['denoiser']['uint8 to uint8, images/s']:,} images/s"))
    if "training" in parts:
        made = parts["training"]
        for name, row in ((name, row) for name, row in made.items() if isinstance(row, dict)):
            seconds = sorted(row["s"]) or [row["first, s"]]
            what = f"training, recipe `{made['recipe']}`, {made['images']:,} images, {name}"
            rows.append((what, f"{seconds[len(seconds) // 2]:.2f} s"))
    if "certify" in parts:
        made = parts["certify"]
        seconds = sorted(made["seconds a run"])
        rows.append((f"a certification run, {made['images']:,} images", f"{seconds[len(seconds) // 2]:.1f} s"))
    if "shards" in parts:
        made = parts["shards"]
        rows.append(("`sanitize`, 50,000 images, shards to shards", f"{min(made['sanitize, s']):.1f} s"))
        process = min(made["rival's process, s"])
        rows.append(("the same as a bare loop in memory, whole process", f"{process:.1f} s"))
        rows.append(("that loop alone", f"{min(made['loop alone, s']):.1f} s"))
    for name, row in parts.get("fit", {}).items():
        what = name if name == "natural" else f"natural, fitted further, {name}, {row['steps']:,} steps"
        rows.append((what, ", ".join(f"{row[sigma]:.2f} dB at {sigma}" for sigma in ("0.1", "0.25", "0.5"))))
    checks = [(name, part) for name, part in result["parts"].items() if name in ("tests", "memcheck", "racecheck")]
    rows.extend((name, part["result"].get("pytest", part["status"]).strip("=")) for name, part in checks)
    kind, driver = result["gpus"][0].split(", ")
    return (
        f"On one {kind} (driver {driver}), each part as it was measured last, ratios against torch on the same card "
        "(`benchmarks/gpu_check.py`):\n\n" + table(("what", "measured"), rows)
    )


def certified_curve() -> str:
    result = load("certified_curve")
    made = [(sigma, row) for sigma, row in sorted(result["by sigma"].items())]
    first = made[0][1]
    rows = [
        (
            sigma,
            percent(row["accuracy of one run"]),
            *map(percent, row["certified accuracy"].values()),
            f"{row['s']:.0f} s, {row['commands at once']}",
        )
        for sigma, row in made
    ]
    kind, driver = result["machine"]["gpus"][0].split(", ")
    head = (
        "sigma",
        "one run",
        *(f"radius {radius}" for radius in first["certified accuracy"]),
        "seconds, commands at once",
    )
    return (
        f"{first['runs']} runs a sigma on all {first['images']:,} training images of CIFAR-10, "
        f"recipe `{first['recipe']}`, {first['points']:,} of its test images, alpha {first['alpha']}, "
        f"on one {kind} (driver {driver}; `benchmarks/certified_curve.py`):\n\n" + table(head, rows)
    )


def whole_images() -> str:
    cases = load("whole_images")["cases"]
    what = {"resnet20": "ResNet-20 of CIFAR-10 train", "imagenet": "efficientnet-lite0 at 112 px"}
    rows = [
        (
            what[name],
            f"{case['images']:,}",
            f"{case['images a run']}",
            *(f"{percent(share)} ({images})" for images, share in case["changed"].items()),
            *(f"{percent(share)} ({images})" for images, share in case["inserted"].items()),
        )
        for name, case in cases.items()
    ]
    wide = max(len(row) for row in rows)
    changed, inserted = (max(len(case[kind]) for case in cases.values()) for kind in ("changed", "inserted"))
    rows = [
        (*row[: 3 + len(case["changed"])], *("",) * (changed - len(case["changed"])), *row[3 + len(case["changed"]) :])
        for row, case in zip(rows, cases.values(), strict=True)
    ]
    assert all(len(row) == wide for row in rows)
    first = next(iter(cases.values()))
    head = (
        "features",
        "images",
        "a run",
        "certified as they are",
        *("changed",) * (changed - 1),
        *("inserted",) * inserted,
    )
    return (
        f"Share of {first['points']:,} CIFAR-10 test images that are certified for their right class where so many "
        f"images (in brackets) were changed at will or inserted: {first['runs']:,} runs, head `ridge`, alpha "
        f"{first['alpha']} each (`benchmarks/whole_images.py`):\n\n" + table(head, rows)
    )


def heads() -> str:
    result = load("heads_speed")
    ours, loops, faster = (result[key] for key in ("the command, ms a run", "scikit-learn, ms a run", "times faster"))
    draws = next(value for key, value in result.items() if key.startswith("members of a run of"))
    rows = [
        ("`dpclean certify --features`, votes on the disk, certificate, page", f"{ours['processor']:.1f} ms", ""),
        *(
            (
                f"scikit-learn, fit and predict, {name}",
                f"{loop['processor']:.1f} ms",
                f"{faster[name]['processor']:.1f} x",
            )
            for name, loop in loops.items()
        ),
    ]
    return (
        f"{result['runs']:,} heads on {result['members a run']} members of {result['dimensions']:,} numbers, "
        f"{result['points']:,} points, on one core: time of the processor a run, {where('heads_speed')} "
        "(`benchmarks/heads_speed.py`):\n\n"
        + table(("what", "a run", "dpclean is faster"), rows)
        + f"\n\nWhich of 50,000 images a run takes: {draws['dpclean, us']:.0f} us, by numpy's generator "
        f"{draws['numpy, us']:.0f} us."
    )


def partitions() -> str:
    """Against whole images, beside what is published."""
    result = load("partitions")
    found = [
        (f"{data}, {election}", reach["touched_parts"])
        for data, elected in result["by parts"].items()
        for election, reach in elected.items()
    ]
    for kind, what in (("images_inserted", "put in"), ("images_changed", "changed at will")):
        if "by shares" in result:
            shares = f"{result['images']:,} images from scratch, {result['runs']} runs on shares of {result['share']}"
            found.append((f"{shares}, images {what}", result["by shares"][kind]))
    found += [(f"published, 50,000 images from scratch: {name}", reach) for name, reach in result["published"].items()]
    rows = [(what, *(f"{value:.1f} %" for value in reach)) for what, reach in found]
    seconds = ", ".join(f"{what} {value:g} s" for what, value in result["seconds"].items())
    return (
        f"Share of CIFAR-10 test images ({result['points']:,} from scratch) whose class is right and stays so, where of"
        f" {result['partitions']} parts so many are touched: an image that was put in, taken away or changed in its"
        f" place touches one, an image changed at will two. From scratch the recipe is `{result['recipe']}`, chosen for"
        " its cost; features are those of frozen networks, which are trusted with the images that they were made from,"
        " and the head on them is `ridge`."
        + (" Runs on shares claim so many images, not parts." if "by shares" in result else "")
        + f" (`benchmarks/partitions.py`, on {where('partitions')}, a busy machine: {seconds}):\n\n"
        + table(("certified accuracy", *(f"{reach} touched" for reach in result["reaches"])), rows)
    )


def methods() -> str:
    """Quality and cost of each method on what decided nothing."""
    rows = load("methods_table")["rows"]
    sets, sigmas = (list(dict.fromkeys(row[key] for row in rows)) for key in ("set", "sigma"))
    said = []
    for name in sets:
        by = {(row["method"], row["sigma"]): row for row in rows if row["set"] == name}
        lines = []
        for method in dict.fromkeys(method for method, _ in by):
            if not all((method, sigma) in by for sigma in sigmas):
                continue  # not done yet
            mine = [by[method, sigma] for sigma in sigmas]
            a_sample = [
                (row["seconds"] / row["images"]) / (one["seconds"] / one["images"])
                for row, one in zip(mine, (by["one-step", sigma] for sigma in sigmas), strict=True)
            ]
            cells = [f"`{method}`", f"{mine[0]['images']}", f"{sorted(a_sample)[len(a_sample) // 2]:.1f}"]
            for row in mine:
                apart, seen = row["to_one_step"], row.get("agrees", {})
                if method == "one-step":
                    cells.append(f"{row['psnr']:.2f} dB")
                    shares = " / ".join(f"{100 * share:.1f} %" for share in seen.values())
                    cells.append(shares or f"{row['ssim']:.3f}")
                    continue
                cells.append(f"{apart['psnr'][0]:+.2f}")
                differences = [f"{100 * apart[name][0]:+.1f} ± {100 * apart[name][1]:.1f}" for name in seen]
                cells.append(" / ".join(differences) or f"{apart['ssim'][0]:+.3f} ± {apart['ssim'][1]:.3f}")
            lines.append(tuple(cells))
        what = "agrees" if "agrees" in by["one-step", sigmas[0]] else "SSIM"
        head = ("method", "images", "cost", *(f"{kind} at {sigma:g}" for sigma in sigmas for kind in ("PSNR", what)))
        said.append(f"{name}:\n\n" + table(head, lines))
    return (
        f"`natural` at three sigmas (`benchmarks/methods.py`, on {where('methods_table')}): PSNR; agreement, the share "
        "of images in which ResNet-56 / ResNet-20, trained on clean CIFAR-10, see the class that they see in the clean "
        "image; of photos, 64 px from the middle of each, SSIM. Below `one-step` each method's difference from it on "
        "the same images with the same noise, the first of them where there are fewer, with standard errors. Cost: "
        "processor time an image over that of `one-step`.\n\n" + "\n\n".join(said)
    )


def spacing() -> str:
    """Steps even in log-SNR less steps even in the timestep."""
    rows = load("methods_spacing")["compared"]

    def cell(row: dict[str, Any], name: str, scale: float, digits: int) -> str:
        found = row.get(name)
        if found is None:
            return ""
        return f"{scale * found['difference']:+.{digits}f} ± {scale * found['standard error']:.{digits}f}"

    lines = [
        (
            row["set"],
            f"`{row['method']}`",
            f"{row['sigma']:g}",
            f"{row['images']}",
            cell(row, "psnr", 1, 3),
            *(cell(row, f"agreement, {name}", 100, 1) for name in ("ResNet-56", "ResNet-20")),
        )
        for row in rows
    ]
    return (
        "Steps even in log-SNR less steps even in the timestep, on the same images with the same noise, with standard "
        f"errors (`benchmarks/methods.py --part spacing`, on {where('methods_spacing')}):\n\n"
        + table(("images", "method", "sigma", "n", "PSNR, dB", "ResNet-56 agrees, %", "ResNet-20 agrees, %"), lines)
    )


def ddim() -> str:
    result = load("ddim_speed")
    return (
        f"`ddim:{result['steps']}` from uint8 to uint8 against a loop over diffusers' `DDIMScheduler` with the same "
        f"weights, {result['dtype']}, batch {result['batch']}: {ratio(result['ratio'])}, CPU time on "
        f"{where('ddim_speed')} (`benchmarks/ddim_speed.py`)."
    )


def evasion() -> str:
    result = load("evasion_curve")
    distances = tuple(result["rows"][0]["certified_accuracy"])
    lines = [
        (
            row["model"],
            row["sigma"],
            f"`{row['denoiser']}`",
            row["local_smoothing"],
            f"{row['images']}",
            f"{row['runs']:,}",
            *(f"{100 * row['certified_accuracy'][distance]:.1f} %" for distance in distances),
            f"{row['ceiling'][:5]}",
        )
        for row in result["rows"]
    ]
    head = ("model", "sigma", "denoiser", "local smoothing", "images", "runs")
    models = "; ".join(f"{name}: {evasion_model(m)}" for name, m in result["models"].items())
    return (
        f"Certified accuracy of CIFAR-10 test images under changes of the image itself, alpha {result['alpha']} for"
        f" each image, models of recipe `fast` (`benchmarks/evasion_curve.py`, on {where('evasion_curve')}). Trained on"
        f" CIFAR-10: {models}. {result['rows'][0]['images']} images leave a share uncertain by up to"
        f" {50 / result['rows'][0]['images'] ** 0.5:.0f} points (standard error), and so many runs show no radius above"
        " the ceiling in the last column:\n\n"
        + table((*head, *(f"l2 {distance}" for distance in distances), "ceiling"), lines)
        + evasion_local()
        + evasion_speed()
    )


def evasion_local() -> str:
    rows = load("evasion_local")["rows"]
    told = "; ".join(
        f"{row['model']}, {'none' if row['local_smoothing'] == 'none' else row['local_smoothing']}"
        f" {100 * row['certified_accuracy']['0']:.1f} % and {100 * row['certified_accuracy']['0.25']:.1f} %"
        for row in rows
    )
    return (
        f"\n\nWhat local smoothing (M:S) does, on {rows[0]['images']} of these images at sigma {rows[0]['sigma']}, by"
        f" {rows[0]['runs']} draws each, at l2 0 and 0.25 (on {where('evasion_local')}): {told}."
    )


def evasion_model(model: dict[str, Any]) -> str:
    how = "as they are"
    if model["sigma"]:
        how = f"sanitized once at sigma {model['sigma']:g}"
    elif model["sigma_augment"] is not None:
        how = f"noised at sigma {model['sigma_augment']:g} and denoised anew in every epoch"
    right = "" if model["accuracy"] is None else f", {percent(model['accuracy'])} of test images right without noise"
    return f"{model['images']:,} images {how}{right}"


def evasion_speed() -> str:
    result = load("evasion_curve_speed")
    found = "; ".join(
        f"`{row['denoiser']}` {row['ms']['dpclean']['median']:.1f} ms against"
        f" {row['ms']['diffusers']['median']:.1f} ms, {ratio(row['ratio'])}"
        for row in result["rows"]
    )
    return (
        "\n\nOne draw of one image, from noise to vote, against a loop of diffusers' network in one step and the same"
        f" model, {result['rows'][0]['dtype']}, batch {result['batch']}, CPU time of {result['threads']} thread(s) on"
        f" {where('evasion_curve_speed')}: {found}."
    )


def augmented() -> str:
    result = load("sigma_augment")
    rows = [
        (name, percent(row["clean"]), percent(row["denoised"]), f"{row['seconds']:.0f} s")
        for name, row in result["rows"].items()
    ]
    return (
        f"What `train --sigma-augment` gains: two models of recipe `{result['recipe']}`, on {result['images']:,}"
        f" CIFAR-10 images, shown {result['points']} test images as they are and noised at sigma {result['sigma']:g}"
        f" and denoised once (`benchmarks/sigma_augment.py`, on {where('sigma_augment')}; standard error of a share"
        f" {50 / result['points'] ** 0.5:.1f} points):\n\n"
        + table(("training images", "right, as they are", "right, denoised", "training took"), rows)
    )


def robust() -> str:
    result, rows = load("robust_accuracy"), list[tuple[str, ...]]()
    for number, setting in enumerate(result["settings"].values()):
        for parts in zip(*setting["parts"].values(), strict=True):
            if number == 0 or parts[0]["defence"] != "none":  # the same images without a purifier are told of once
                rows.append(_robust_row(setting, parts))
    votes = ", ".join(f"{setting['votes']} by `{setting['method']}`" for setting in result["settings"].values())
    head = (
        "method", "attacker knows it", "images", "steps, draws", "right, one draw", "attacked", "right, by vote",
        "attacked", "an image",
    )  # fmt: skip
    return (
        f"Right under PGD on changes of at most {result['eps']} of 255 grey levels a pixel value through noise of sigma"
        " 0.25, `natural` and a model of recipe `fast` trained on 50,000 CIFAR-10 images sanitized once at that sigma,"
        f" with gradients averaged over draws of the noise; votes: {votes} (`benchmarks/robust_accuracy.py`, on"
        f" {where('robust_accuracy')}). Nie et al. 2022 attack with 40 steps and 20 draws; fewer make the attack weaker"
        " and flatter the defence. What is wrong at once, by one draw and by vote, is not attacked and counts as wrong;"
        " the last column is processor time for an attacked image:\n\n" + table(head, rows)
    )


def _robust_row(setting: dict[str, Any], parts: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    first, purified = parts[0], parts[0]["defence"] != "none"
    images, changed = (sum(part[name] for part in parts) for name in ("images", "changed"))
    counts = ("clean", "attacked", *(("clean_by_vote", "attacked_by_vote") if purified else ()))
    right = [str(sum(part[name][0] for part in parts)) for name in counts]
    seconds = sum(part["processor_seconds"] * part["changed"] for part in parts) / max(1, changed)
    return (
        f"`{setting['method']}`" if purified else "none",
        "yes" if first["knows"] else "no",
        f"{images}" if images == setting["asked"] else f"{images} of {setting['asked']}",
        f"{first['steps']}, {first['draws']}",
        *right,
        *[""] * (4 - len(right)),
        f"{seconds:.1f} s",
    )


def attacked() -> str:
    """The short table of attacks: of the heads the one that serves the attacker best."""
    cases = {name: case for name, case in load("audit")["cases"].items() if name.startswith("bullseye-polytope")}
    unaware, wide = cases["bullseye-polytope"], cases["bullseye-polytope, 50 targets"]
    aimed = [case for name, case in cases.items() if ", adaptive at" in name]
    aware = {row["defence"]: case for case in aimed for row in case["rows"] if row["crafted_for"] is not None}

    def worst(case: dict[str, Any], defence: str) -> dict[str, Any]:
        rows: list[dict[str, Any]] = [row for row in case["rows"] if row["defence"] == defence]
        known = [row for row in rows if row["crafted_for"] is not None] or rows
        return max(known, key=lambda row: row["succeeded"] / max(1, row["trials"] - row["skipped"]))

    def told(row: dict[str, Any]) -> str:
        return f"{row['succeeded']} of {row['trials'] - row['skipped']}"

    rows = []
    for defence in dict.fromkeys(row["defence"] for row in unaware["rows"]):
        row = worst(wide if any(one["defence"] == defence for one in wide["rows"]) else unaware, defence)
        if not (defence == "none" or defence.startswith("sanitized") or row["covered"] is not None):
            continue  # that of others is in docs/benchmarks.md
        knows = told(worst(aware[defence], defence)) if defence in aware else ""
        proved = "" if row["covered"] is None else f"{row['covered']} of {row['trials'] - row['skipped']}"
        rows.append((defence, told(row), knows, percent(row["accuracy"]), proved))
    head = ("defence", "attacks that succeed", "of attackers who know it", "accuracy", "proved that none can")
    return (
        f"Bullseye polytope, 25 of {unaware['images']:,} CIFAR-10 images changed by up to 16 grey levels, white box, a"
        " head on a frozen ResNet-20 (`benchmarks/audit.py`; docs/benchmarks.md has all rows, with their intervals; an"
        " empty field was not measured):\n\n" + table(head, rows)
    )


def amplified_radius() -> str:
    """What shares do to radii: measured, beside the most that arithmetic allows."""
    result = load("amplified_radius")
    attacks = {name: f"{reach:.3g} ({name})" for name, reach in result["attacks"].items()}
    rows = [
        (
            case["sigma"],
            case["share"],
            f"{case['runs']}",
            percent(case["right by the vote"]),
            percent(case["certified and right"]),
            f"{case['largest radius']:.2f}" if case["largest radius"] else "none",
            f"{case['ceiling at so many runs']:.2f}",
            f"{case['plain ceiling at so many runs']:.2f}",
            *(percent(case[name]) for name in attacks),
        )
        for case in result["cases"]
    ]
    head = ("sigma", "q", "runs", "right by the vote", "certified", "largest radius", "ceiling", "ceiling, no share")
    curve = [
        (case["sigma"], case["share"], *(percent(share) for share in case["curve"].values()))
        for case in result["cases"]
    ]
    reaches = tuple(result["cases"][0]["curve"])
    shares = [name for name in result["ceilings"][0] if name.startswith("0.")]
    ceilings = [
        (row["sigma"], f"{row['runs']:,}", f"{row['plain']:.2f}", *(f"{row[share]:.2f}" for share in shares))
        for row in result["ceilings"]
    ]
    return (
        f"Measured: {result['points']:,} CIFAR-10 test images as points, {result['images']:,} others as the training"
        " set, of which a run takes each with probability q; noise before the features of a ResNet-20 of CIFAR-10"
        f" train, head `ridge`, bound `{result['bound']}`, alpha {result['alpha']} each. Certified are points for their"
        " right class, at radius 0 and at three attacks on 32-pixel images by so many levels of 255; the largest radius"
        " is of these. A ceiling is arithmetic: the radius if all of so many runs agreed"
        f" (`benchmarks/amplified_radius.py`, {where('amplified_radius')}):\n\n"
        + table((*head, *attacks.values()), rows)
        + "\n\nThe program casts the votes, by a key that anyone can draw again, and `dpclean certify --votes` counts"
        " them. How many runs there are is what the machine's time gave and was not announced; the last row was"
        " extended from 300 runs after its certificate was seen, so take it as exploratory. Rows without a"
        " share were not measured: 5,000 images a run cost too much."
        + "\n\nThe same runs, certified accuracy over the l2 radius:\n\n"
        + table(("sigma", "q", *reaches), curve)
        + "\n\nNot measured, the bound's ceiling: the radius of a point on which all runs agree:\n\n"
        + table(("sigma", "runs", "no share", *(f"q {share}" for share in shares)), ceilings)
    )


COUNTED = ("attack", "defence", "learned by", "succeeded", "95 % interval", "control", "accuracy / control")


def counted(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    """What an audit has counted behind one defence."""
    return (
        name,
        row["defence"],
        row["head"],
        f"**{row['succeeded']} of {row['trials'] - row['skipped']}**",
        f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %",
        f"{row['control']} of {row['trials']}",
        f"{percent(row['accuracy'])} / {percent(row['control_accuracy'])}",
    )


def audit_victims() -> str:
    """The same on other victims, by the images that they learn from."""
    cases = load("audit_victims")["cases"]
    told = []
    for images in dict.fromkeys(case["images of"] for case in cases.values()):
        own = {name: case for name, case in cases.items() if case["images of"] == images}
        first = next(iter(own.values()))
        seconds = "; ".join(
            f"{name} {case['crafting, processor s a target']['median']:.0f} s" for name, case in own.items()
        )
        those = images if "ImageNet" in images else f"{images} of CIFAR-10"
        told.append(
            f"{first['images']:,} images of {those}, accuracy on {first['test_images']:,} test images;"
            f" processor time of crafting a target: {seconds}:\n\n"
            + table(COUNTED, [counted(name, row) for name, case in own.items() for row in case["rows"]])
        )
    return "\n\n".join(told) + f"\n\n(`benchmarks/audit_victims.py`, one thread, {where('audit_victims')})"


def audit() -> str:
    """Attacks and what is left of them, case by case; where an attack is adaptive, of it the adaptive rows."""
    cases = load("audit")["cases"]
    rows, crafting = [], []
    for name, case in cases.items():
        adaptive = any(row["crafted_for"] is not None for row in case["rows"])
        for row in case["rows"]:
            if adaptive and row["crafted_for"] is None:
                continue
            attacked = row["trials"] - row["skipped"]
            proved = "" if row["covered"] is None else f"{row['covered']} of {attacked}, reach {row['reach']}"
            rows.append((*counted(name, row), proved))
        crafting += [
            f"{name}, knows {knows} {seconds['median']:.1f} s ({seconds['q1']:.1f} to {seconds['q3']:.1f})"
            for knows, seconds in case["crafting, processor s a target, by what the attacker knows"].items()
        ]
    first = next(iter(cases.values()))
    head = (*COUNTED, "proved for")
    return (
        f"`dpclean audit` on {first['images']:,} CIFAR-10 images and trials of the poisoning benchmark from number"
        f" {first['trials'].split()[0]} on, those of triggers drawn, 25 poisons each of 16 grey levels unless"
        " said, white box: the frozen ResNet-20 has seen these images."
        f" Accuracy on {first['test_images']:,} test images, of the victim with poison and of the control"
        f" without. Processor time of crafting a target: {'; '.join(crafting)} (`benchmarks/audit.py`, one thread,"
        f" {where('audit')}):\n\n" + table(head, rows)
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "methods": methods,
    "spacing": spacing,
    "ddim": ddim,
    "costs": costs,
    "accuracy": accuracy,
    "psnr": psnr,
    "shapes": shapes,
    "speed": speed,
    "sizes": sizes,
    "in_domain": in_domain,
    "whole": whole,
    "overhead": overhead,
    "kernels": kernels,
    "gpu": gpu,
    "certified_curve": certified_curve,
    "evasion": evasion,
    "augmented": augmented,
    "robust": robust,
    "partitions": partitions,
    "training": training,
    "sanitized": sanitized,
    "certification": certification,
    "verify_share": verify_share,
    "whole_images": whole_images,
    "amplified_radius": amplified_radius,
    "heads": heads,
    "audit": audit,
    "audit_victims": audit_victims,
    "attacked": attacked,
}


def main() -> None:
    for name in DOCUMENTS:
        path = REPOSITORY / name
        filled = re.sub(
            r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)",
            lambda m: f"{m[1]}{BLOCKS[m[2]]()}\n{m[3]}",
            path.read_text(),
            flags=re.DOTALL,
        )
        path.write_text(filled)
        print(name)


if __name__ == "__main__":
    main()
