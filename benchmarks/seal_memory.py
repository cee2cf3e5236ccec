"""Peak memory of sealing OUT, the one step of `sanitize` that looks at all files again, by the number of images.

python benchmarks/seal_memory.py                      prints a table, writes benchmarks/results/seal_memory.json
python benchmarks/seal_memory.py --images 5000,20000  other numbers

Each number is a process of its own: hard links to one small PNG and a ledger that says that all were sanitized.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from machine_facts import write_results

IN_A_FOLDER = 10_000


def made(folder: Path, images: int) -> Any:
    """The ledger of a job that has sanitized so many images into folder, and these."""
    import numpy as np

    from dpclean.data.decoding.encode import encode
    from dpclean.pipeline.ledger import DONE, Ledger, Listed, Outcome

    content = encode(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), None, "png")
    digest = hashlib.sha256(content).digest()
    names = [f"class{n // IN_A_FOLDER:03d}/{n:07d}.png".encode() for n in range(images)]
    ledger = Ledger(folder / "dpclean.ledger.sqlite")
    first = folder.parent / "first.png"
    for number, name in enumerate(names):
        if number % IN_A_FOLDER == 0:  # a file can have so many names only
            (folder / f"class{number // IN_A_FOLDER:03d}").mkdir()
            first.unlink(missing_ok=True)
            first.write_bytes(content)
        os.link(first, os.path.join(os.fsencode(folder), name))
    with ledger.transaction():
        ledger.freeze(Listed(n, name, n // IN_A_FOLDER, name) for n, name in enumerate(names))
        ledger.record(
            [
                Outcome(n, name, DONE, None, (32, 32, 3), hashlib.sha256(name).digest(), digest)
                for n, name in enumerate(names)
            ],
            {n: (name, digest) for n, name in enumerate(names)},
        )
        ledger.set("retried", 0)
    return ledger


def measured(images: int) -> dict[str, Any]:
    """Peak memory before and while such a folder is sealed; the folder is made by another process."""
    from dpclean.data.ancestry import Ancestry
    from dpclean.data.records import DataOptions
    from dpclean.data.sources import open_source
    from dpclean.jobs.record import Record
    from dpclean.pipeline.ledger import Ledger
    from dpclean.pipeline.options import SanitizeOptions
    from dpclean.pipeline.save import write_outputs

    record = Record("sanitize", {"denoiser_digests": {}}, {"versions": {}}, {})
    level = SimpleNamespace(timestep=1.0, alphas_cumprod=0.5)
    shapes = SimpleNamespace(batch_pixels=1, tile=1, overlap=1)
    device = SimpleNamespace(type="cpu")
    denoiser: Any = SimpleNamespace(
        id="none", prediction_type="epsilon", level=level, method="one-step", device=device, dtype="fp32", shapes=shapes
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "partial"
        folder.mkdir()
        if (child := os.fork()) == 0:
            made(folder, images).close()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit("seal_memory: the folder could not be made")
        source = open_source(folder, DataOptions())
        with closing(Ledger(folder / "dpclean.ledger.sqlite")) as ledger:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            begun = time.perf_counter()
            write_outputs(
                folder,
                folder,
                folder,
                ledger=ledger,
                source=source,
                denoiser=denoiser,
                options=SanitizeOptions(sigma=0.25),
                key=bytes(32),
                inherited=Ancestry(),
                record=record,
            )
            seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"images": images, "mib_before": before >> 10, "mib_peak": peak >> 10, "seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="5000,50000,300000", metavar="N,N,...")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(asked.one)))
        return
    rows = []
    for images in map(int, asked.images.split(",")):
        said = subprocess.run([sys.executable, __file__, "--one", str(images)], stdout=subprocess.PIPE, check=True)
        rows.append(json.loads(said.stdout))
    print(f"{'images':>9}  {'before':>8}  {'peak':>8}  {'seconds':>8}")
    for row in rows:
        row["ratio"] = round(row["mib_peak"] / rows[0]["mib_peak"], 3)
        print(
            f"{row['images']:9,}  {row['mib_before']:4} MiB  {row['mib_peak']:4} MiB  {row['seconds']:8.1f}"
            f"  {row['ratio']:.2f} x"
        )
    write_results("seal_memory", {"rows": rows})


if __name__ == "__main__":
    main()
