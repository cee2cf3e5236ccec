"""A refusal that crosses from one process to another stays what it is."""

from __future__ import annotations

import json

import pytest

from dpclean import errors
from dpclean.errors import DpcleanError, refusal

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DpcleanError)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.code != "internal"], ids=lambda kind: kind.__name__)
def test_an_error_that_travelled_is_of_its_own_class(kind: type[DpcleanError]) -> None:
    told = json.loads(json.dumps(kind("what it is", "what to do").as_dict()))
    found = refusal(told)
    assert type(found) is kind and found.as_dict() == told


def test_codes_are_told_apart_and_others_are_no_refusals() -> None:
    codes = [kind.code for kind in KINDS if kind.code != "internal"]
    assert len(codes) == len(set(codes)) > 6
    for told in ({}, {"code": "other", "message": "", "remedy": ""}):
        with pytest.raises(KeyError):
            refusal(told)
