"""What a function of the package is given is checked at once, by its name, its type and its range."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dpclean
from dpclean.certify import job as certify_job
from dpclean.certify.external_votes import certify_votes
from dpclean.certify.options import CertifyOptions
from dpclean.classifier_training import job as train_job
from dpclean.denoiser_training.fit import fit
from dpclean.errors import DpcleanError, SetupError, UsageError
from dpclean.jobs.checks import check_ranges, given_path, options_of
from dpclean.pipeline.options import SanitizeOptions
from dpclean.progress import Progress, shown_as_asked

FUNCTIONS: list[tuple[Any, Any]] = [
    (dpclean.sanitize, {"sigma": 0.25}),
    (train_job.train, {}),
    (certify_job.certify, {}),
]


@pytest.mark.parametrize(("function", "needed"), FUNCTIONS, ids=["sanitize", "train", "certify"])
@pytest.mark.parametrize(
    ("wrong", "message", "remedy"),
    [
        ({"devise": "cpu"}, "has no option 'devise'", "did you mean device?"),
        ({"workers": "2"}, "workers must be int or nothing, got '2'", "leave it out"),
        ({"overwrite": 1}, "overwrite must be bool, got 1", "leave it out"),
        ({"workers": 10**20}, "workers must be a number from 1 to 4,096", "leave it out"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_read(
    function: Any, needed: Any, wrong: dict[str, Any], message: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as refusal:
        function(tmp_path / "nowhere", tmp_path / "out", **needed, **wrong)
    assert message in refusal.value.message and remedy in refusal.value.remedy


def test_text_serves_for_a_path_and_a_number_for_a_decimal() -> None:
    read = options_of(CertifyOptions, "certify", {"raw": "raw", "sigma": 0.25, "alpha": 0.01, "runs": np.int64(7)})
    assert (read.raw, read.sigma, read.alpha, read.runs) == (Path("raw"), "0.25", "0.01", 7)
    read = options_of(CertifyOptions, "certify", {"init": Path("model"), "run_timeout": 5})
    assert (read.init, read.run_timeout) == ("model", 5)
    sanitized = options_of(SanitizeOptions, "sanitize", {"sigma": 0, "carry": ["ids"], "max_bad": 3})
    assert (sanitized.carry, sanitized.max_bad) == (("ids",), "3")


@pytest.mark.parametrize("given", [[None], ["ids", b"ids"], ([],)])
def test_what_stands_in_a_list_is_looked_at_too(given: Any) -> None:
    with pytest.raises(UsageError, match="carry must be str, got "):
        options_of(SanitizeOptions, "sanitize", {"sigma": 0.1, "carry": given})


@pytest.mark.parametrize("path", ["~no-user-of-that-name/x", "a\0b", "n" * 256, "n/" * 2500])
@pytest.mark.parametrize("function", [given_path, lambda path: fit([path], "out"), lambda path: certify_votes(path)])
def test_a_path_that_no_file_can_have_is_refused(path: str, function: Any) -> None:
    with pytest.raises(UsageError):
        function(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, True, "3"])
def test_a_number_out_of_its_range_is_refused(value: Any) -> None:
    check_ranges(limit=3, workers=None)
    with pytest.raises(UsageError, match="limit must be a number from 1 to"):
        check_ranges(workers=2, limit=value)


def test_an_error_ends_with_its_remedy_and_survives_a_process_boundary() -> None:
    error = SetupError("there is no such device", "take another one")
    assert str(error) == "there is no such device\nhint: take another one"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.as_dict()) == (SetupError, error.as_dict())
    assert isinstance(again, DpcleanError)


def test_progress_is_shown_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    steps: list[Progress] = []
    for asked in (None, False, steps.append, True):
        with shown_as_asked(asked) as show:
            show(Progress(3, 3, "images", 0.0, "done"))
    assert len(steps) == 1 and said.getvalue() == "dpclean: 3/3 images, 0 s left, done\n"
