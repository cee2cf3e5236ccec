"""What a worker and its parent say to each other over two pipes: fixed structs, JSON and raw bytes, never pickle.

A request is REQUEST followed by JSON (its length is in the header) and then the bytes to be decoded, where these lie in
no file of their own, or the planes of each image to be encoded. An answer comes for each image by itself: RESULT and
the planes, or WRITTEN. It says what it answers: the number that the request gave the image, and a digest that the
worker makes of what it was asked.
"""

from __future__ import annotations

import struct

from dpclean.errors import Reason

HELLO = b"dpclean worker 2\n"
ROOM = struct.Struct("<q")  # follows HELLO: bytes that one image may take, within the limits that the system sets

REQUEST = struct.Struct("<cI")  # DECODE, DECODE_BYTES or ENCODE, length of the JSON
DECODE = b"D"  # {"root": ..., "identity": [device, inode], "files": [[number, index, name], ...]}
# one image a request, as its answer may be larger than a pipe: {"number": ..., "index": ..., "name": ..., "size": ...}
DECODE_BYTES = b"B"
ENCODE = b"E"  # {"root": ..., "replace": bool, "images": [[number, target, format, H, W, C, has alpha], ...]}

# number, identity_of(index, name), outcome, place in FORMATS, C, has alpha, H, W; then the planes
RESULT = struct.Struct("<Q16sBBBBII")
# number, identity_of(number, target) and planes, errno (0 when the file is written), SHA-256 of what was written
WRITTEN = struct.Struct("<Q16si32s")

FORMATS = ("png", "jpeg", "webp", "bmp", "tiff", "gif", "ppm")
REASONS = tuple(Reason)
READ = 0  # outcomes: READ, LEFT_BEHIND, or 1 + the place in REASONS
LEFT_BEHIND = 255
