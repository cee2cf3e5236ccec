"""The doctor is run on this very installation, and on installations that were broken on purpose."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dpclean import doctor
from dpclean.denoise import loading
from dpclean.errors import SetupError
from dpclean.kernels import kernel_name


@pytest.fixture(scope="module")
def report() -> doctor.Report:
    return doctor.examine()


def finding(report: doctor.Report, name: str) -> doctor.Finding:
    (found,) = (f for f in report.findings if f.name == name)
    return found


def test_this_installation_has_no_failure(report: doctor.Report) -> None:
    assert [f for f in report.findings if f.status == "fail"] == []
    assert kernel_name() in finding(report, "kernels").found


def test_versions_are_those_that_python_imports(report: doctor.Report) -> None:
    import torch
    import torchvision

    assert doctor.satisfies(torch.__version__, "==" + finding(report, "torch").found)
    assert doctor.satisfies(torchvision.__version__, "==" + finding(report, "torchvision").found)
    doctor.check_libraries()


def test_report_is_json(report: doctor.Report) -> None:
    names = [f.name for f in report.findings]
    again = json.loads(json.dumps(report.as_dict()))
    assert [f["name"] for f in again["findings"]] == names
    assert again["status"] == report.status


def test_whatever_is_not_well_has_a_remedy_in_the_lines() -> None:
    bad = doctor.Finding("disk", "warn", "nearly full", "make room")
    worse = doctor.Finding("torch", "fail", "gone", "get one")
    report = doctor.Report((doctor.Finding("GPU", "ok", "none"), bad, worse))
    assert report.status == "fail" and report.failed
    assert [line.split()[0] for line in report.lines()] == ["ok", "warn", "hint:", "fail", "hint:"]
    assert report.lines()[2].endswith("hint: make room")


@pytest.mark.parametrize("damage", ["truncated", "header", "missing"])
def test_a_damaged_denoiser_is_found(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    intact = loading.find_denoiser("natural")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "config.json").write_bytes(intact.config.read_bytes())
    (tmp_path / "scheduler" / "scheduler_config.json").write_bytes(intact.scheduler.read_bytes())
    weights = intact.weights.read_bytes()
    if damage != "missing":
        broken = weights[:-1] if damage == "truncated" else b"\xff" * 8 + weights[8:]
        (tmp_path / loading.WEIGHTS).write_bytes(broken)
    monkeypatch.setitem(loading.BUNDLED, "natural", tmp_path)
    found = finding(doctor.examine(), "denoiser natural")
    assert found.status == "fail" and found.remedy


def test_a_torchvision_of_another_torch_is_one_sentence_and_a_remedy(tmp_path: Path) -> None:
    """What a torchvision built for another torch does on import, done by a package of that name."""
    package, metadata = tmp_path / "torchvision", tmp_path / "torchvision-0.99.0.dist-info"
    package.mkdir()
    metadata.mkdir()
    (package / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99.0\n")
    program = """
import json
from dpclean import doctor
from dpclean.errors import SetupError
try:
    doctor.check_libraries()
except SetupError as error:
    print(json.dumps([error.as_dict(), doctor.examine().as_dict()]))
"""
    path = os.pathsep.join([str(tmp_path), str(Path(doctor.__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    error, report = json.loads(done.stdout)
    assert error["exit"] == 4
    assert "torchvision 0.99.0 do not belong together" in error["message"] and "\n" not in error["message"]
    assert "pip install" in error["remedy"]
    assert report["status"] == "fail"
    assert {f["name"] for f in report["findings"]} > {"kernels", "torch", "torchvision", "temporary files"}


def test_a_kernel_that_cannot_run_is_a_finding() -> None:
    program = "from dpclean import doctor; print(next(doctor._kernels()).status)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DPCLEAN_KERNEL": "abacus"},
        cwd=Path(doctor.__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "fail\n"


def test_little_room_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._space("x", tmp_path).status == "ok"
    monkeypatch.setattr(doctor, "LOW_SPACE", 1 << 62)
    assert doctor._space("x", tmp_path).status == "warn"


@pytest.mark.parametrize(
    ("version", "specifier", "met"),
    [
        ("2.5.0+cpu", "==2.5", True),
        ("2.5.1", "==2.5.0", False),
        ("2.15.0", ">=2.14.0", True),
        ("2.13.0+cpu", ">=2.14.0", False),
        ("2.15.0", ">=2.14.0,<2.15", False),
        ("2.9.1", "<2.10", True),
        ("2.15.0", "", True),
    ],
)
def test_versions_are_compared_as_numbers(version: str, specifier: str, met: bool) -> None:
    assert doctor.satisfies(version, specifier) is met


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MODULES", {"dpclean-no-such-package": "dpclean_no_such_module"})
    with pytest.raises(SetupError, match="dpclean-no-such-package is not installed"):
        doctor.check_libraries()


def limited(limit: int, most: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dpclean", *arguments],
        cwd=folder,
        preexec_fn=lambda: resource.setrlimit(limit, (most, most)),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(doctor.__file__).parent.parent)},
        capture_output=True,
        text=True,
    )


def test_without_a_folder_for_temporary_files_the_cause_is_named(tmp_path: Path) -> None:
    # where no file may have a single byte there is no folder that Python takes for temporary files
    done = limited(resource.RLIMIT_FSIZE, 0, tmp_path, "doctor", "--json")
    told = json.loads(done.stdout)
    (found,) = (finding for finding in told["findings"] if finding["name"] == "temporary files")
    assert done.returncode == 4 and found["status"] == "fail" and "TMPDIR" in found["remedy"]
    assert {"torch", "denoiser natural", "this folder"} <= {finding["name"] for finding in told["findings"]}


@pytest.mark.parametrize("command", ["sanitize raw --sigma 0.25 --out clean", "train clean --out model", "doctor"])
def test_where_memory_is_limited_the_limit_is_named(command: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "cat"
    raw.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(raw / "1.png")
    done = limited(resource.RLIMIT_AS, 1 << 30, tmp_path, *command.split())
    assert done.returncode == 4
    said = done.stdout + done.stderr
    assert "ulimit -v allows a process 1 GiB" in said and "ulimit -v unlimited" in said
    assert "Traceback" not in said and "pip install" not in said


def test_a_folder_that_is_gone_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert finding(doctor.examine(), "this folder").found == "it has been deleted"
