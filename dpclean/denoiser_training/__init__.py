"""Fitting a denoiser to trusted images, and measuring one."""
