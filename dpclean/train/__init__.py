"""Classifiers: networks, how they are fitted, and what they say.

images.py   one tensor of one size              recipes.py   everything that changes a result, by name
augment.py  flips and translations              networks.py  the networks that recipes name
trainer.py  fit and predict, as often as wanted step.py      one step of a fit, made of augment.py and optimizers.py
"""
