"""How the noise is taken away: one file and one class a method, and their registry."""

from dpclean.denoise.methods.method import Evaluation, Method, Noise
from dpclean.denoise.methods.registry import find_method

__all__ = ["Evaluation", "Method", "Noise", "find_method"]
