"""The files of a certificate beside its votes: how they are spelled, and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpclean.certificate.bounds.base import BESIDE, Proof, proof_of
from dpclean.certificate.parameters import FORMAT, CertificateParameters, from_json
from dpclean.certificate.partitions import BY_NAME, Parts
from dpclean.certificate.votes import read_bytes
from dpclean.errors import InputError, printable
from dpclean.versioned import check_format

CERTIFICATE_NAME = "certificate.json"
TSV_NAME = "certified.tsv"
COLUMNS = (
    "index", "name", "label", "class", "certified_radius", "budget", "k_a", "k_b", "pa_lower", "pb_upper"
)  # fmt: skip

Json = dict[str, Any]
_RESTORE = "restore the file, or certify again"


@dataclass(frozen=True)
class Published:
    """A certificate that somebody published, of any form: nothing is taken from it but proofs, which are tested."""

    found: Any

    def inside(self, *place: str | int) -> Published:
        """What is at a place, if anything."""
        found = self.found
        for step in place:
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError):
                return Published(None)
        return Published(found)

    def proof(self, *place: str | int) -> Proof:
        """What proves the number at a place; empty where nothing of its form is there."""
        return proof_of(self.inside(*place).found)


def dump(certificate: Mapping[str, Any]) -> bytes:
    """certificate.json: one line a point, so that it can be looked at and compared."""
    points = ",\n".join(json.dumps(point) for point in certificate["points"])
    rest = json.dumps({**certificate, "points": []}, indent=1)
    here = '\n "points": []'  # of the certificate: what lies deeper, in a recipe of any form, is indented further
    return rest.replace(here, f'\n "points": [\n{points}\n]').encode() + b"\n"


def read(path: Path) -> Json:
    """A certificate as it was dumped; what it says is not checked. Raises InputError, ConflictError."""
    try:
        certificate = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is no JSON: {error}", _RESTORE) from error
    check_is_certificate(path, certificate)
    assert isinstance(certificate, dict)
    return certificate


def parameters_in(certificate: Mapping[str, Any]) -> CertificateParameters:
    """The parameters that a certificate says it was made under; what they say is not checked. Raises FormError."""
    return from_json({**certificate["terms"], "point_names": [point["name"] for point in certificate["points"]]})


def check_is_certificate(path: Path, certificate: Any) -> None:
    """Raises InputError for what is no certificate, ConflictError for one of another format."""
    check_format(path, certificate, FORMAT, oldest=FORMAT)
    if not isinstance(certificate, dict) or type(certificate.get("format")) is not int or certificate["format"] < 1:
        raise InputError(f"{str(path)!r} is no certificate", _RESTORE)


def tsv(certificate: Mapping[str, Any]) -> str:
    """certified.tsv: one line a point; what is not known or not there is empty, names are escaped as on a terminal."""
    whole = tuple(name for name in Parts(0, BY_NAME).as_json() if all(name in point for point in certificate["points"]))
    beside = certificate["terms"].get("with_images", ())
    columns = COLUMNS + whole + tuple(map(_radius_with, beside))
    lines = ["\t".join(columns)]
    for point in certificate["points"]:
        radii = {_radius_with(found["images"]): found["certified_radius"] for found in point.get(BESIDE, ())}
        row = {**point, **radii, "name": printable(point["name"])}
        lines.append("\t".join("" if row[name] is None else str(row[name]) for name in columns))
    return "\n".join(lines) + "\n"


def _radius_with(images: int) -> str:
    return f"radius_with_{images}_changed"
