"""Diffusion denoisers: loading, schedule, tiling, precision, training."""
