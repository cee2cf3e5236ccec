"""Small data sets, denoisers and trainers for whole jobs that take seconds."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.networks import make_denoiser, make_transparent

CLASSES = ("blue", "green", "red")

# a trainer that knows the mean colour of each class and votes for the nearest one; it needs no torch
NEAREST_COLOUR = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
data, test, out = map(Path, sys.argv[1:4])
def colour_of(path): return np.asarray(Image.open(path).convert("RGB"), float).mean((0, 1))
means = {folder.name: np.mean([colour_of(p) for p in folder.iterdir()], 0) for folder in sorted(data.iterdir())}
lines = []
for path in sorted(test.iterdir()):
    colour = colour_of(path)
    lines.append(path.name + "\\t" + min(means, key=lambda name: float(((means[name] - colour) ** 2).sum())))
(out / "predictions.tsv").write_text("\\n".join(lines) + "\\n")
"""


def colour_image(label: int, number: int, side: int = 16) -> np.ndarray:
    """An image of strong texture whose mean colour leans weakly to its class."""
    draw = np.random.default_rng([label, number])
    image = draw.integers(60, 180, (side, side, 3))
    image[:, :, 2 - label] += 4
    return image.astype(np.uint8)


def write_folder(root: Path, each: int, first: int = 0, prefix: str = "") -> Path:
    """A folder of colour images: `each` of every class."""
    for label, name in enumerate(CLASSES):
        folder = root / prefix / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(first, first + each):
            Image.fromarray(colour_image(label, number)).save(folder / f"{number:03d}.png")
    return root


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Raw data with splits: 18 training images, 9 test images."""
    write_folder(tmp_path / "raw", 6, prefix="train")
    return write_folder(tmp_path / "raw", 3, first=100, prefix="test")


@pytest.fixture(scope="session")
def transparent(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A denoiser through which the noised image can be seen."""
    return str(make_transparent(tmp_path_factory.mktemp("denoiser") / "transparent"))


@pytest.fixture(scope="session")
def not_finite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A denoiser whose predictions are never finite."""

    def spoil(model: object) -> None:
        model.conv_out.weight.fill_(3e38)  # type: ignore[attr-defined]

    return str(make_denoiser(tmp_path_factory.mktemp("denoiser") / "not-finite", prepare=spoil))


# a trainer that takes no time: always the same class; $1 data, $2 test, $3 out
ALWAYS_RED = """
cd "$2" && for point in *; do printf '%s\\tred\\n' "$point"; done > "$3/predictions.tsv"
"""


def trainer_command(folder: Path, program: str) -> str:
    """A --trainer that runs a Python program or a shell script."""
    interpreter = "/bin/sh" if "$2" in program else sys.executable
    path = folder / "trainer"
    path.write_text(program)
    return f"{shlex.quote(interpreter)} {shlex.quote(os.fspath(path))} {{data}} {{test}} {{out}}"


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """A worker that runs inside a test sets torch's number of threads, on which weights of other tests depend."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
