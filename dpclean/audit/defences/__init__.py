"""Defences by name: what each does to the images that a victim learns from, and the registry of all."""

from dpclean.audit.defences.registry import DEFENCES as DEFENCES
from dpclean.audit.defences.registry import find_defences as find_defences
from dpclean.audit.defences.registry import make_defences as make_defences
