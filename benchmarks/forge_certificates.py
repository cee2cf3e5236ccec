"""Certificates forged in every way that is known here: how many `dpclean verify` accepts. The bar is none.

    python benchmarks/forge_certificates.py   prints a table, writes benchmarks/results/forge_certificates.json
    python benchmarks/forge_certificates.py --mutations 50   fewer random ones
    python benchmarks/forge_certificates.py --mutations 100 --seeds 1 2 3 4 5 --keep FOLDER   as many, in pieces:
                                              what a seed gave is kept, and started again only the others are done

- Bytes and JSON of each of the three files changed at random, or spelled in another way: all must be refused.
- Self-consistent forgeries: a term is changed to another value of the same form or to one of none, and the job's
  identity, all records, certificate.json and certified.tsv are made anew with dpclean itself. What verify then accepts
  must be a term that it lists as the issuer's word, changed to a value of its form.
- Rankings of a run-off that are none, or not those of the votes, with all else made anew: all must be refused.
- Of runs on a share: another share, a run too many, witnesses that fail, numbers of images, radii beside some and
  accuracies that are larger than was proved. A witness that proves the same numbers as the one that was published is
  no forgery; such are counted apart.
- Votes that no honest run cast (rows in another order, one row many times, some left out, edited ones), all else made
  anew: nobody can see them; they are counted apart and must be named in the issuer's word.

A forgery ends verify with exit code 3, 5 or 6. Another exception is a crash, and counts as badly as an acceptance.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray
from safetensors.numpy import save

from dpclean import __version__
from dpclean.certificate.bounds import find_bound
from dpclean.certificate.certificate import build
from dpclean.certificate.files import dump, tsv
from dpclean.certificate.parameters import (
    FORMAT,
    FormError,
    as_json,
    from_json,
    issuers_terms,
    noise_distances,
)
from dpclean.certificate.verify import verify
from dpclean.certificate.votes import Votes, record
from dpclean.errors import DpcleanError

RUNS, POINTS = 40, 5
FILES = ("certificate.json", "certified.tsv", "votes.safetensors")
SLOW_SECONDS = 10.0
Json = dict[str, Any]


def own_terms() -> Json:
    """Terms as a job of dpclean's own has them."""
    known = {"images": 15199, "gaps": [], "points": 0}
    return {
        "format": FORMAT, "tool": f"dpclean {__version__}", "origin": "dpclean", "runs": RUNS, "selection_runs": 0,
        "points": POINTS, "classes": ["cat", "dog", "owl"], "sigma": "0.25", "alpha": "0.001", "bound": "multiclass",
        "family": "point", "threat": "clean-test", "values": 307200, **noise_distances("0.25", 307200), "seed": None,
        "attempt": 1, "point_names": [f"{number}.png" for number in range(POINTS)], "point_source": "test",
        "points_digest": "a1" * 32, "points_in_training": 0,
        "raw": {"pixel_digest": "a2" * 32, "certified_digest": "a3" * 32, "images": 100, "listed": 103,
                "quarantined": {"empty": 2, "corrupt": 1}, "kind": "folder"},
        "inputs_digest": "a4" * 32, "key_commitment": "a5" * 32, "order": ["digest of the data fixed", "key drawn"],
        "denoiser": {"id": "natural", "digests": {"weights": "a6" * 32}, "method": "one-step", "ancestry": known},
        "recipe": {"name": "tiny", "size": None, "widths": [16, 32], "lr": 0.24, "mirror": True},
        "size": 32,
        "init": {"source": "x", "digest": "a7" * 32, "ancestry": known},
        "trainer": None, "trainer_files": None, "run_timeout": None,
        "decode": {"alpha_policy": "composite", "follow_links": False, "max_pixels": 10**8, "layout": None,
                   "limit": None},
        "engine": {"device": "cpu", "dtype": "fp32", "batch_pixels": 131072, "threads": 1,
                   "versions": {"torch": "2.4"}},
        "keep_models": False, "exploratory": False,
    }  # fmt: skip


def share_terms() -> Json:
    """Terms of runs on a share of noised images, with radii beside changed ones."""
    return {**own_terms(), "subsample": 2**32 // 20, "with_images": [1, 3]}


def quiet_terms() -> Json:
    """Terms of runs on a share without noise, which prove something about whole images alone."""
    return {**own_terms(), "sigma": "0", **noise_distances("0", 307200), "subsample": 2**32 // 20}


def elsewhere_terms() -> Json:
    """Terms of votes from elsewhere."""
    kept = {name: value for name, value in own_terms().items() if name in (
        "format", "tool", "runs", "selection_runs", "points", "sigma", "alpha", "bound", "family", "threat",
        "exploratory")}  # fmt: skip
    unknown = ("values", "tau1", "seed", "points_digest", "raw", "key_commitment", "order", "denoiser", "recipe",
               "trainer", "decode", "engine")  # fmt: skip
    return {
        **dict.fromkeys(unknown), **kept, "origin": "external", "tau": "0", "classes": ["0", "1", "2"],
        "point_names": [str(number) for number in range(POINTS)], "point_source": "external",
    }  # fmt: skip


def elsewhere_on_shares() -> Json:
    """Terms of votes from elsewhere whose runs took a share."""
    return {**elsewhere_terms(), "subsample": 2**32 // 20, "with_images": [1, 3]}


def parts_terms() -> Json:
    """Terms of a job that trains one model on each part."""
    return {
        **own_terms(), "alpha": "0", "bound": "runoff", "family": "all", "sigma": "0", **noise_distances("0", 307200),
        "partitions": {"parts": RUNS, "by": "name"},
    }  # fmt: skip


def honest(terms: Json) -> Votes:
    """Votes of every kind of point: unanimous, disputed, tied, without any; a run that failed."""
    votes = np.zeros((RUNS, POINTS), np.int32)
    votes[:4, 1] = 1
    votes[: RUNS // 2, 2] = 2
    votes[:, 3] = -1
    votes[::7, 4] = 1
    votes[RUNS - 1] = -1
    rankings = None
    if "partitions" in terms:
        rankings = np.where(votes[..., None] < 0, 0xFFFF, (votes[..., None] + np.arange(3)) % 3).astype(np.uint16)
    return Votes(votes, np.array([0, 0, 2, 1, -1], np.int64), None, from_json(terms), rankings=rankings)


def hand_over(folder: Path, votes: Votes, terms: Json | None = None) -> None:
    """All three files, each made from the others as certify makes them, under terms of any form.

    Raises what certify refuses; terms that it cannot hold stand beside what the honest ones give.
    """
    terms = as_json(votes.parameters) if terms is None else terms
    job, text = identity(terms), spelled(terms)
    tensors: dict[str, Any] = {"votes": votes.votes} | ({} if votes.labels is None else {"labels": votes.labels})
    if terms.get("origin") == "dpclean" and not terms.get("exploratory"):
        ranked = [b""] * len(votes.votes) if votes.rankings is None else [rank.tobytes() for rank in votes.rankings]
        pairs = enumerate(zip(votes.votes, ranked, strict=True), 1)
        rows = [np.frombuffer(record(job, run, row, b"", rank), np.uint8) for run, (row, rank) in pairs]
        votes = replace(votes, records=np.stack(rows))
        tensors["records"] = np.stack(rows)
    if votes.rankings is not None:
        tensors["rankings"] = votes.rankings
    data = save(tensors, {"dpclean": text})
    try:
        votes = replace(votes, parameters=from_json(terms))
    except FormError:
        pass
    made = build(votes, hashlib.sha256(data).hexdigest())
    made["job"] = job
    made["terms"] = {name: value for name, value in json.loads(text).items() if name != "point_names"}
    (folder / "votes.safetensors").write_bytes(data)
    (folder / "certificate.json").write_bytes(dump(made))
    (folder / "certified.tsv").write_bytes(tsv(made).encode("utf-8", "surrogateescape"))


def spelled(terms: Json) -> str:
    """Terms in their one spelling."""
    return json.dumps(terms, sort_keys=True, separators=(",", ":"))


def identity(terms: Json) -> str:
    """The identity of a job with these terms, whatever they hold."""
    fixed = {name: value for name, value in terms.items() if name != "runs" or terms.get("bound") != "anytime"}
    return hashlib.sha256(spelled(fixed).encode()).hexdigest()


# -------------------------------------------------------------------------------------------------------- forgeries


@dataclass(frozen=True)
class Forgery:
    """kind: a row of the table. make: changes a folder with honest files in it, False where nothing was changed.

    undetectable: whether verify can but name it as the issuer's word.
    """

    kind: str
    what: str
    make: Callable[[Path], bool]
    undetectable: bool = False


def of_bytes(rng: random.Random, count: int) -> Iterator[Forgery]:
    """Random bytes of each file changed, taken out, put in, doubled, moved; files cut and lengthened."""
    for name in FILES:
        for number in range(count):
            yield Forgery(f"bytes of {name}", str(number), _of_bytes(name, rng.randrange(2**32)))


def _of_bytes(name: str, seed: int) -> Callable[[Path], bool]:
    def make(folder: Path) -> bool:
        rng, path = random.Random(seed), folder / name
        before = path.read_bytes()
        data = bytearray(before)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            at, length = rng.randrange(len(data)), rng.choice((1, 1, 2, 8, 64))
            match rng.randrange(6):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    del data[at : at + length]
                case 2:
                    data[at:at] = rng.randbytes(length)
                case 3:
                    data[at:at] = data[at : at + length]
                case 4:
                    data[at : at + length] = rng.choice((b"0", b"9", b"-1", b"true", b"null", b" ", b'"', b"_", b"NaN"))
                case _:
                    del data[at:]
            if not data:
                break
        path.write_bytes(data)
        return bytes(data) != before

    return make


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 1.0, 0.5, 10**30, float("nan"), float("inf"), "", "0", "1", "0.5",
    "00.11", "0__0.1",
    "-1", "1e-3", "1" * 5000, "golden", [], {}, [1], {"a": 1}, [[[[]]]], "\ud800", "\u0000",
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in inside:
        yield from places(entry, (*path, name))


def changed(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a path."""
    if not path:
        return value
    made = copy.deepcopy(whole)
    inside = made
    for name in path[:-1]:
        inside = inside[name]
    inside[path[-1]] = value
    return made


def nearby(value: Any) -> list[Any]:
    """Values of the same form, a little off."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, -value, float(value)]
    if isinstance(value, str):
        numbers = [value.replace("0.", "1.", 1), value + "0", "0" + value] if value[:2] == "0." else []
        return [*numbers, value + " ", value[::-1], value.upper(), value[:-1]]
    if isinstance(value, list):
        return [value[:-1], value[::-1], value * 2]
    if isinstance(value, dict):
        return [{**value, "seal": "golden"}, dict(list(value.items())[1:]), dict(reversed(value.items()))]
    return []


def of_json(rng: random.Random, count: int, certificate: Json) -> Iterator[Forgery]:
    """Values of certificate.json changed at random places, and the whole spelled in other ways."""
    everywhere = [path for path in places(certificate) if path]
    for path in rng.sample(everywhere, min(count, len(everywhere))):
        found: Any = certificate
        for name in path:
            found = found[name]
        for value in rng.sample([*nearby(found), *rng.sample(VALUES, 3)], 3):
            yield Forgery("values of certificate.json", f"{path}: {value!r:.40}", _of_json(path, value))
    spellings: dict[str, Callable[[str], bytes]] = {
        "utf-16": lambda text: text.encode("utf-16"),
        "utf-32": lambda text: text.encode("utf-32"),
        "byte order mark": lambda text: text.encode("utf-8-sig"),
        "duplicate key": lambda text: text.replace('"kind"', '"kind": "certificate", "kind"', 1).encode(),
        "duplicate key, the first is another": lambda text: text.replace('"kind"', '"kind": 1, "kind"', 1).encode(),
        "one line": lambda text: json.dumps(json.loads(text)).encode(),
        "sorted": lambda text: json.dumps(json.loads(text), indent=1, sort_keys=True).encode(),
        "windows": lambda text: text.replace("\n", "\r\n").encode(),
        "nested": lambda text: b"[" * 10**6,
        "nested objects": lambda text: b'{"a":' * 10**6,
        "a long number": lambda text: text.replace('"points": 5', '"points": ' + "9" * 10**6, 1).encode(),
        "twice": lambda text: (text + text).encode(),
        "empty": lambda text: b"",
        "many zeros": lambda text: text.encode() + bytes(10**8),
    }
    for name, spell in spellings.items():
        yield Forgery("spellings of certificate.json", name, _respelled(spell))


def _of_json(path: tuple[Any, ...], value: Any) -> Callable[[Path], bool]:
    def make(folder: Path) -> bool:
        file = folder / "certificate.json"
        before = file.read_bytes()
        forged = changed(json.loads(before), path, value)
        try:
            data = dump(forged)
            (folder / "certified.tsv").write_bytes(tsv(forged).encode("utf-8", "surrogateescape"))
        except (TypeError, KeyError, ValueError, AttributeError):
            data = json.dumps(forged).encode()
        file.write_bytes(data)
        return data != before

    return make


def _respelled(spell: Callable[[str], bytes]) -> Callable[[Path], bool]:
    def make(folder: Path) -> bool:
        file = folder / "certificate.json"
        file.write_bytes(spell(file.read_text("utf-8")))
        return True

    return make


def of_share(certificate: Json) -> Iterator[Forgery]:
    """What is published of whole images and of what a share amplifies, made a little larger or proved otherwise."""
    for path in places(certificate):
        if not path:
            continue
        value: Any = certificate
        for name in path:
            value = value[name]
        if path[-1] == "witness" and value is not None:
            (k, w), *rest = value
            values: list[Any] = [
                None, [], [[k, w], *rest, [k, w]], rest, [[w, k], *rest], [[k, "0"], *rest], [["-" + k, w], *rest],
                *([[_moved(k, step), w], *rest] for step in ("0.01", "-0.2")),
                *([[k, _moved(w, step)], *rest] for step in ("0.5", "-0.2", "-0.01")),
            ]  # fmt: skip
        elif str(path[-1]).startswith("images") and isinstance(value, int):
            values = [value + 1, value - 1]
        elif not isinstance(value, str):
            continue
        elif path[-1] in ("inserted", "changed", "missing", "accuracy", "lower", "certified_radius"):
            values = [_moved(value, "0.000001"), _moved(value, "0.1")]
        elif path[-1] == "share":
            values = [_moved(value, "-0.000001")]
        else:
            continue
        for other in values:
            yield Forgery("whole images and what is amplified", f"{path}: {other!r:.60}", _of_json(path, other))
    yield Forgery("whole images and what is amplified", "another u", _of_json(("terms", "subsample"), 2**32 // 30))


def _moved(text: str, step: str) -> str:
    return format((Decimal(text) + Decimal(step)).normalize(), "f")


def of_terms(votes: Votes, count: int, rng: random.Random, only: tuple[str, ...] | None = None) -> Iterator[Forgery]:
    """Each term changed, and everything that follows from it made anew; count: values a place; only: these terms."""
    terms, nobodys = as_json(votes.parameters), issuers_terms(votes.parameters)
    for path in places(terms):
        if not path or (only and path[0] not in only):
            continue
        honest: Any = terms
        for name in path:
            honest = honest[name]
        values = [*nearby(honest), *rng.sample(VALUES, min(count, len(VALUES))), *SAME_FORM.get(path[0], ())]
        for value in values:
            what = f"{'.'.join(map(str, path))} = {value!r:.40}"
            forged = changed(terms, path, value)
            yield Forgery("terms, all else made anew", what, _handed(votes, forged), path[0] in nobodys)
    for name in only or terms:
        forged = {key: value for key, value in terms.items() if key != name}
        may_be_absent = name == "with_images"  # whether it was asked for is the issuer's word
        yield Forgery("terms, one left out", name, _handed(votes, forged), may_be_absent)


SAME_FORM: dict[str, tuple[Any, ...]] = {
    "sigma": ("0.5", "4", "1000", "0.0000001"), "tau": ("0",), "tau1": ("0",), "alpha": ("0.01", "0.5", "0.6"),
    "bound": ("union", "cohen", "anytime"), "selection_runs": (4,), "seed": (7,), "threat": ("noised-test",),
    "partitions": ({"parts": RUNS - 1, "by": "name"}, {"parts": RUNS, "by": "content"}),
    "subsample": (2**32 // 30, 1, 2**32 - 1, 2**32, 0),
    "with_images": ([1], [3, 1], [1, 1], [0], [101], [2, 4, 8]),
    "trainer": ("python x.py",), "order": (["key drawn", "digest of the data fixed"],), "origin": ("external",),
}  # fmt: skip


def _handed(votes: Votes, terms: Json | None = None) -> Callable[[Path], bool]:
    def make(folder: Path) -> bool:
        try:
            if terms is not None and spelled(terms) == spelled(as_json(votes.parameters)):
                return False
            hand_over(folder, votes, terms)
        except (DpcleanError, ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError):
            return False  # dpclean itself makes no certificate of it
        return True

    return make


def of_votes(votes: Votes) -> Iterator[Forgery]:
    """What only the issuer knows: votes that no honest run cast, all else made anew."""
    tables = {
        "rows reversed": votes.votes[::-1],
        "one row forty times": np.repeat(votes.votes[:1], RUNS, axis=0),
        "a quarter of the runs left out": votes.votes[RUNS // 4 :],
        "all votes for one class": np.ones_like(votes.votes),
        "one vote edited": np.where(np.arange(votes.votes.size).reshape(votes.votes.shape) == 7, 1, votes.votes),
    }
    if votes.rankings is not None:
        yield from _of_rankings(votes, votes.rankings)
        return
    for name, table in tables.items():
        runs = len(table)
        parameters = structs.replace(
            votes.parameters, runs=runs, selection_runs=find_bound(votes.parameters.bound).selection_runs(runs)
        )
        forged = replace(votes, votes=np.ascontiguousarray(table, np.int32), parameters=parameters)
        yield Forgery("votes, all else made anew", name, _handed(forged), True)
    one_more = replace(votes, votes=np.concatenate([votes.votes, votes.votes[:1]]))
    yield Forgery("votes, terms as they were", "a run too many", _handed(one_more))
    if votes.labels is not None:
        flattering = replace(votes, labels=np.zeros(POINTS, np.int64))
        yield Forgery("votes, all else made anew", "other labels", _handed(flattering), True)


def _of_rankings(votes: Votes, rankings: NDArray[np.uint16]) -> Iterator[Forgery]:
    """Rankings that are none, or not those of the votes; and such as no model gave, which only the issuer knows."""
    last = np.arange(3) == 2
    wrong = {
        "another first place": np.roll(rankings, 1, axis=2),
        "a class twice": np.where(last, rankings[..., 1:2], rankings),
        "a class that is none": np.where(last & (rankings < 3), 3, rankings),
        "half a ranking": np.where(last, 0xFFFF, rankings),
        "a ranking without a vote": np.where(rankings == 0xFFFF, np.arange(3), rankings),
        "of other classes": rankings[..., :2],
        "of other points": rankings[:, :3],
    }
    for name, table in wrong.items():
        forged = replace(votes, rankings=np.ascontiguousarray(table, np.uint16))
        yield Forgery("rankings, all else made anew", name, _handed(forged))
    turned = rankings.copy()
    turned[..., 1:] = turned[..., :0:-1]
    yield Forgery(
        "rankings, all else made anew", "what is not first turned round", _handed(replace(votes, rankings=turned)), True
    )


# ---------------------------------------------------------------------------------------------------------- judging


@dataclass
class Tally:
    """What became of the forgeries of a kind."""

    refused: Counter[str] = field(default_factory=Counter)
    issuers_word: int = 0
    same_numbers: int = 0  # proved by another witness
    accepted: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, other: Tally) -> None:
        """What became of more of them."""
        self.refused += other.refused
        self.issuers_word += other.issuers_word
        self.same_numbers += other.same_numbers
        self.accepted += other.accepted
        self.crashed += other.crashed
        self.slowest = max(self.slowest, other.slowest)


def judge(forgery: Forgery, folder: Path, tally: Tally, honest: Json) -> None:
    """Let verify look at a forged folder, in the place of an honest certificate."""
    begun = time.perf_counter()
    try:
        verify(folder)
    except DpcleanError as error:
        if error.exit in (3, 5, 6):
            tally.refused[str(error.exit)] += 1
        else:
            tally.crashed.append(f"{forgery.what}: exit {error.exit}")
    except Exception as error:  # whatever it is, it would have been exit code 1
        tally.crashed.append(f"{forgery.what}: {type(error).__name__}: {error}")
    else:
        if forgery.undetectable:
            tally.issuers_word += 1
        elif _without_witnesses(json.loads((folder / FILES[0]).read_bytes())) == _without_witnesses(honest):
            tally.same_numbers += 1
        else:
            tally.accepted.append(forgery.what)
    elapsed = time.perf_counter() - begun
    tally.slowest = max(tally.slowest, elapsed)
    if elapsed > SLOW_SECONDS:
        tally.crashed.append(f"{forgery.what}: took {elapsed:.0f} s")


def _without_witnesses(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_witnesses(entry) for name, entry in value.items() if name != "witness"}
    return [_without_witnesses(entry) for entry in value] if isinstance(value, list) else value


def forge(place: Path, mutations: int, seed: int = 1) -> dict[str, Tally]:
    """All kinds of forgeries, made and judged in a folder; mutations: random ones of each kind."""
    rng, tallies = random.Random(seed), dict[str, Tally]()
    kinds = (own_terms(), elsewhere_terms(), parts_terms(), share_terms(), quiet_terms(), elsewhere_on_shares())
    for number, terms in enumerate(kinds):
        votes, clean = honest(terms), place / f"honest-{number}"
        clean.mkdir()
        hand_over(clean, votes)
        verify(clean)
        certificate = json.loads((clean / "certificate.json").read_bytes())
        values = max(1, mutations // 50)
        if "subsample" in terms:  # of what it has in common with others there is enough
            of_whole = list(of_share(certificate))
            forgeries = (
                *rng.sample(of_whole, min(4 * mutations, len(of_whole))), *of_votes(votes),
                *of_terms(votes, values, rng, ("subsample", "with_images")),
            )  # fmt: skip
        else:
            forgeries = (
                *of_bytes(rng, mutations), *of_json(rng, mutations, certificate), *of_terms(votes, values, rng),
                *of_votes(votes),
            )  # fmt: skip
        files = {name: (clean / name).read_bytes() for name in FILES}
        folder = place / "forged"
        folder.mkdir(exist_ok=True)
        for forgery in forgeries:
            for name, data in files.items():
                (folder / name).write_bytes(data)
            if forgery.make(folder):
                judge(forgery, folder, tallies.setdefault(forgery.kind, Tally()), certificate)
    return tallies


def _kept(keep: Path | None, mutations: int, seed: int) -> dict[str, Tally]:
    """The tallies of a seed, from the folder where they are kept if they are there."""
    path = None if keep is None else keep / f"{mutations}-{seed}.json"
    if path is not None and path.exists():
        found = json.loads(path.read_text())
        return {kind: Tally(Counter(tally.pop("refused")), **tally) for kind, tally in found.items()}
    with tempfile.TemporaryDirectory() as place:
        tallies = forge(Path(place), mutations, seed)
    if path is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({kind: vars(tally) for kind, tally in tallies.items()}))
    return tallies


def main() -> None:
    from machine_facts import write_results

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=500, metavar="N", help="random ones of each kind")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    tallies = dict[str, Tally]()
    for seed in asked.seeds:
        for kind, tally in _kept(asked.keep, asked.mutations, seed).items():
            tallies.setdefault(kind, Tally()).add(tally)
    print(f"{'kind':<34} {'refused':>8} {'issuer':>7} {'ACCEPTED':>9} {'CRASHED':>8} {'slowest':>8}")
    for kind, tally in tallies.items():
        print(
            f"{kind:<34} {tally.refused.total():>8} {tally.issuers_word:>7} {len(tally.accepted):>9}"
            f" {len(tally.crashed):>8} {tally.slowest:>7.2f}s"
        )
    bad = [f"{kind}: {what}" for kind, tally in tallies.items() for what in (*tally.accepted, *tally.crashed)]
    for line in bad[:50]:
        print(f"  {line}")
    results = {
        kind: {
            "refused_by_exit_code": dict(sorted(tally.refused.items())),
            "issuers_word": tally.issuers_word,
            "proved_by_another_witness": tally.same_numbers,
            "accepted": tally.accepted,
            "crashed": tally.crashed,
            "slowest_seconds": round(tally.slowest, 3),
        }
        for kind, tally in tallies.items()
    }
    shape = {"mutations": asked.mutations, "seeds": asked.seeds}
    print(f"results in {write_results('forge_certificates', {**shape, 'kinds': results})}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
