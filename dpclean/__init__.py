"""dpclean: sanitize training images that others made, with a provable noise level."""
