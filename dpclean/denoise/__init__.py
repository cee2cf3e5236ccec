"""Diffusion denoisers: loading, schedule, methods, tiling, precision."""
