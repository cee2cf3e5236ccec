"""Reading and writing images by processes that parse what nobody trusts: bytes in, pixels or a reason out."""
