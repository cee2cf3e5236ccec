"""The header of a safetensors file, read as if its author wished us ill, and written with room to grow.

Format: u64 LE length, a JSON object {name: {dtype, shape, data_offsets}, "__metadata__": {str: str}}
padded with spaces, then the tensors without gaps. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from typing import Any

MAX_HEADER_BYTES = 16 << 20
MAX_RANK = 16
METADATA = "__metadata__"
_LENGTH = struct.Struct("<Q")
_DTYPE_BITS = {
    **dict.fromkeys(("F4", "F4_E2M1"), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


class BadShard(Exception):
    """What is wrong with a shard, as a sentence without its subject and full stop."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: begin is its place in the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Header:
    """Tensors by name, and the metadata strings."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_header(descriptor: int, file_size: int) -> Header:
    """The header of an open file. Raises BadShard before any tensor is read, OSError."""
    first = os.pread(descriptor, _LENGTH.size, 0)
    if len(first) < _LENGTH.size:
        raise BadShard("is too short for a header")
    (length,) = _LENGTH.unpack(first)
    if length > MAX_HEADER_BYTES:
        raise BadShard(f"says its header has {length} bytes, more than {MAX_HEADER_BYTES}")
    start = _LENGTH.size + length
    if start > file_size:
        raise BadShard(f"says its header has {length} bytes, more than the file")
    parsed = _parse(os.pread(descriptor, length, _LENGTH.size))
    metadata = parsed.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadShard("has metadata that are no strings")
    tensors = {name: _tensor(name, value, start) for name, value in parsed.items()}
    _check_places(tensors, start, file_size)
    return Header(tensors, metadata)


def write_header(tensors: dict[str, Tensor], metadata: dict[str, str], reserve: int = 0) -> bytes:
    """A whole header, padded with spaces to reserve bytes or, without one, to a multiple of eight.

    Raises ValueError when it needs more than reserve.
    """
    start = min((tensor.begin for tensor in tensors.values()), default=0)
    header: dict[str, Any] = {METADATA: metadata} if metadata else {}
    for name, tensor in tensors.items():
        begin = tensor.begin - start
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin + tensor.size],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    wanted = reserve - _LENGTH.size if reserve else -(-len(text) // 8) * 8
    if len(text) > wanted:
        raise ValueError(f"a header of {len(text)} bytes in {wanted}")
    return _LENGTH.pack(wanted) + text.ljust(wanted)


def _parse(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise BadShard("has a header that is no JSON object")
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadShard("has a header that is no JSON") from error
    assert isinstance(parsed, dict)  # it starts with a brace
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise BadShard("has a header with a name twice")
    return unique


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _tensor(name: str, value: Any, start: int) -> Tensor:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadShard(f"describes tensor {_short(name)} with other words than dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        raise BadShard(f"gives tensor {_short(name)} the unknown dtype {_short(dtype)}")
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        raise BadShard(f"gives tensor {_short(name)} a shape that is none")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadShard(f"gives tensor {_short(name)} offsets that are none")
    begin, end = offsets
    if math.prod(shape) * _DTYPE_BITS[dtype] != (end - begin) * 8:
        raise BadShard(f"gives tensor {_short(name)} a shape that does not fit its offsets")
    return Tensor(dtype, tuple(shape), start + begin, end - begin)


def _short(name: object) -> str:
    return repr(name if len(str(name)) <= 60 else str(name)[:60] + "...")


def _are_sizes(values: Any) -> bool:
    """Whether this is a list of integers in 0..2^63-1 (True and 1.0 are none)."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_places(tensors: dict[str, Tensor], start: int, file_size: int) -> None:
    end = start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.size)):
        if tensor.begin != end:
            raise BadShard("has tensors that overlap or leave a gap")
        end += tensor.size
    if end > file_size:
        raise BadShard("has tensors that go past the end of the file")
    if end < file_size:
        raise BadShard("has bytes after its last tensor")
