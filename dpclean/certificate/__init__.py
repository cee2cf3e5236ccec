"""The statistics of a certificate: numbers and text alone, without torch and without images."""
