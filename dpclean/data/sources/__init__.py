"""Kinds of data that come in: one file and one class a kind, and their registry."""

from dpclean.data.sources.registry import open_source
from dpclean.data.sources.source import Source

__all__ = ["Source", "open_source"]
