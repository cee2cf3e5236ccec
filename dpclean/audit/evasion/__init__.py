"""Attacks at test time: test images changed so that a fixed model, behind a purifier or not, takes them for others."""
