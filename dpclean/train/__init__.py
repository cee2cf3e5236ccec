"""Train a classifier on sanitized images.

dataset.py  images from folders and shards      recipes.py   everything that changes a result, by name
images.py   one tensor of one size              networks.py  the networks that recipes name
trainer.py  fit and predict, as often as wanted step.py      one step of a fit, made of augment.py and optimizers.py
"""
