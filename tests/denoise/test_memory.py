"""What becomes of a batch that does not fit into memory: the real thing, under a limit on the address space."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.networks import make_denoiser

# Once without a limit, one image at a time, so that what is loaded only once does not count. And with kernels that are
# not compiled for each shape: the compiler fails at places that change from run to run, and goes on failing.
LIMITED = """
import resource, sys
import numpy as np
import torch
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.errors import DpcleanError

files, room, batch_pixels = find_denoiser(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) or None
torch.backends.mkldnn.set_flags(False)
images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)

def run(batch_pixels):
    denoiser = Denoiser(files, 0.25, dtype="fp32", batch_pixels=batch_pixels)
    found = {r.index: r.pixels.astype(int) for r in denoiser.denoise(enumerate(images), key=bytes(32))}
    return denoiser.shapes.batch(32, 32), [found[i] for i in range(len(images))]

_, expected = run(1024)
(size,) = (int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (size + (room << 20),) * 2)
try:
    batch, found = run(batch_pixels)
    print(batch, np.abs(np.subtract(expected, found)).max())
except DpcleanError as error:
    print(error.message, "/", error.remedy)
    sys.exit(error.exit)
"""


SHORT_OF_MEMORY = """
import resource, sys
import numpy as np
import torch
from dpclean.denoise.denoiser import Denoiser
from dpclean.denoise.loading import find_denoiser
from dpclean.errors import DpcleanError

torch.backends.mkldnn.set_flags(False)
denoiser = Denoiser(find_denoiser(sys.argv[1]), 0.25, dtype="fp32")
images = np.zeros((int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[3]), 3), np.uint8)
(size,) = (int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20),) * 2)
try:
    list(denoiser.denoise(enumerate(images), key=bytes(32)))
except DpcleanError as error:
    print(error.message, "/", error.remedy)
    sys.exit(error.exit)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that needs more than 400 MiB for the preferred batch."""
    return make_denoiser(tmp_path_factory.mktemp("denoiser") / "wide", block_out_channels=(64, 64))


def limited(program: str, folder: Path, *arguments: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, str(folder), *map(str, arguments)]
    # every thread's own heap would take address space that it does not use
    one_thread = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, env=one_thread)


def test_a_batch_that_does_not_fit_is_halved_and_the_job_runs(folder: Path) -> None:
    # nearly what the whole batch needs: where the heap meets another mapping, by chance, freed memory is in pieces
    done = limited(LIMITED, folder, 380, 0)
    assert done.returncode == 0, done.stdout
    batch, difference = map(int, done.stdout.split())
    assert batch < 128 and difference <= 1


def test_a_batch_that_was_asked_for_and_does_not_fit_is_refused(folder: Path) -> None:
    done = limited(LIMITED, folder, 300, 128 * 1024)
    assert done.returncode == 4 and "--batch-size" in done.stdout


@pytest.mark.parametrize(("images", "edge"), [(64, 64), (1, 2000)], ids=["whole images", "tiles"])
def test_memory_that_ends_in_the_middle_is_a_refusal_and_no_traceback(folder: Path, images: int, edge: int) -> None:
    done = limited(SHORT_OF_MEMORY, folder, images, edge)
    assert done.returncode == 4 and "same command again" in done.stdout, done.stdout
