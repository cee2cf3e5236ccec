"""Samples in and out: image folders, shards, decoding, encoding, names. Knows nothing of noise or models."""
