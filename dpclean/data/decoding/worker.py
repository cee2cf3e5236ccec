"""A worker process: decodes files that strangers made, or encodes and writes our own, on request.

It has the right to nothing but its limits: bounded memory, no core dump, no life after its parent.
Started as ``python -m dpclean.data.decoding.worker PARENT OPTIONS`` with pipes for input and output.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import resource
import sys
from typing import IO, Any

import numpy as np
from PIL import Image

from dpclean.data.decoding.decode import Decoded, decode
from dpclean.data.decoding.encode import encode
from dpclean.data.decoding.protocol import (
    DECODE,
    DECODE_BYTES,
    FORMATS,
    HELLO,
    LEFT_BEHIND,
    READ,
    REASONS,
    REQUEST,
    RESULT,
    ROOM,
    WRITTEN,
)
from dpclean.data.digest import identity_of
from dpclean.data.formats import PREFIX_BYTES, claims_image, claims_other_image, sniff
from dpclean.data.names import to_bytes
from dpclean.data.records import DataOptions
from dpclean.data.safe_open import Unusable, open_regular
from dpclean.errors import Reason
from dpclean.jobs.child_process import die_with
from dpclean.jobs.durable import open_new

SKIPPED_BYTES = 1 << 16  # at a time
_NO_IMAGE = (Reason.NOT_AN_IMAGE, Reason.FORMAT_NOT_ALLOWED, Reason.EMPTY)


def main() -> None:
    """Serves requests until the parent closes the pipe."""
    parent, options = int(sys.argv[1]), DataOptions(**json.loads(sys.argv[2]))
    die_with(parent)
    Image.MAX_IMAGE_PIXELS = None  # --max-pixels is checked before Pillow opens anything
    requests, answers = _take_pipes()
    used, (_, hard) = _memory(), resource.getrlimit(resource.RLIMIT_AS)
    limit = used + options.decode_memory
    if hard != resource.RLIM_INFINITY:  # nobody may have more than that
        limit = min(limit, hard)
    answers.write(HELLO + ROOM.pack(limit - used))
    answers.flush()
    while header := requests.read(REQUEST.size):
        kind, length = REQUEST.unpack(header)
        request = json.loads(requests.read(length))
        if kind == DECODE:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
            _decode_all(request, options, answers)
        elif kind == DECODE_BYTES:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
            _decode_bytes(request, requests, options, answers)
        else:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            _encode_all(request, requests, answers)


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The two pipes, out of reach of whatever a decoder prints."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    os.close(silence)
    return requests, answers


def _memory() -> int:
    """Address space in use, in bytes: the base on which --decode-memory comes."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def _decode_all(request: dict[str, Any], options: DataOptions, answers: IO[bytes]) -> None:
    root, identity = os.fsencode(request["root"]), tuple(request["identity"])
    for number, index, name in request["files"]:
        _answer((number, identity_of(index, name)), read(root, name, options, identity), answers)


def _decode_bytes(request: dict[str, Any], requests: IO[bytes], options: DataOptions, answers: IO[bytes]) -> None:
    number, index, name, size = (request[key] for key in ("number", "index", "name", "size"))
    outcome: Decoded | Reason | None
    try:
        outcome = _judged(_received(requests, size), name, options)
    except MemoryError:
        outcome = Reason.DECODER_DIED
    _answer((number, identity_of(index, name)), outcome, answers)


def _received(requests: IO[bytes], size: int) -> bytes:
    """What _read_file gives of a file of so many bytes; all of them are taken, whatever happens."""
    data = requests.read(min(size, PREFIX_BYTES))
    left = size - len(data)
    try:
        if sniff(data) is not None:
            rest = requests.read(left)  # with too little memory nothing is taken
            left = 0
            data += rest
        return data
    finally:
        while left:
            left -= len(requests.read(min(left, SKIPPED_BYTES)))


def _answer(asked: tuple[int, bytes], outcome: Decoded | Reason | None, answers: IO[bytes]) -> None:
    if isinstance(outcome, Decoded):
        (height, width, channels), has_alpha = outcome.pixels.shape, outcome.alpha is not None
        answers.write(RESULT.pack(*asked, READ, FORMATS.index(outcome.format), channels, has_alpha, height, width))
        answers.write(outcome.pixels.data)
        if outcome.alpha is not None:
            answers.write(outcome.alpha.data)
    else:
        code = LEFT_BEHIND if outcome is None else 1 + REASONS.index(outcome)
        answers.write(RESULT.pack(*asked, code, 0, 0, 0, 0, 0))
    answers.flush()


def read(
    root: bytes, name: str, options: DataOptions, identity: tuple[int, int] | None = None
) -> Decoded | Reason | None:
    """The image root/name, the reason why there is none, or None: no image, and the ending claims none."""
    try:
        data = _read_file(open_regular(root, to_bytes(name), options.follow_links, identity))
    except Unusable as refusal:
        return refusal.reason
    except MemoryError:
        return Reason.DECODER_DIED
    return _judged(data, name, options)


def _judged(data: bytes, name: str, options: DataOptions) -> Decoded | Reason | None:
    """What read gives back of a file of these bytes."""
    outcome = decode(data, options)
    if outcome in _NO_IMAGE and not claims_image(name):
        return None
    if outcome is Reason.NOT_AN_IMAGE and claims_other_image(name):
        return Reason.FORMAT_NOT_ALLOWED
    return outcome


def _read_file(descriptor: int) -> bytes:
    """The whole file where its first bytes are those of an image that can be read; else these alone."""
    try:
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            data = file.read(PREFIX_BYTES)
            return data if sniff(data) is None else data + file.readall()
    except OSError as error:
        raise Unusable(Reason.VANISHED if error.errno == errno.ESTALE else Reason.UNREADABLE) from error


def _encode_all(request: dict[str, Any], requests: IO[bytes], answers: IO[bytes]) -> None:
    for number, target, format, height, width, channels, has_alpha in request["images"]:
        planes = requests.read(height * width * (channels + has_alpha))
        pixels = np.frombuffer(planes, np.uint8, height * width * channels).reshape(height, width, channels)
        alpha = None
        if has_alpha:
            alpha = np.frombuffer(planes, np.uint8, offset=pixels.size).reshape(height, width)
        path = os.path.join(os.fsencode(request["root"]), to_bytes(target))
        data = encode(pixels, alpha, format)
        error = _write(path, data, request["replace"])
        digest = hashlib.sha256(data).digest()
        answers.write(WRITTEN.pack(number, identity_of(number, target, planes), error, digest))
        answers.flush()


def _write(path: bytes, data: bytes, replace: bool) -> int:
    """Creates the file and gives back errno; what an interrupted process left is unlinked, never written through."""
    try:
        if replace:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        with open_new(path) as file:
            file.write(data)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


if __name__ == "__main__":
    main()
