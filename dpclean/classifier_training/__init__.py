"""Training a classifier as a job, from a folder of images to a model on the disk."""
