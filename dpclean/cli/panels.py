"""The sections of the help, in the words of a user."""

from __future__ import annotations

NOISE = "Noise"
INPUT = "What goes in"
OUTPUT = "What comes out"
DENOISER = "Denoiser"
TRAINING = "Training"
ATTACK = "Attack"
EVASION = "At test time"
STATEMENT = "What is proved"
WHOLE = "Whole images"
VOTES = "Votes"
COST = "Time and disk"
MACHINE = "Machine"
COMMON = "Common"
