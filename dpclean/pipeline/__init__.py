"""Sanitize a data set: the one place where data, noise, denoiser and job meet.

options.py  what can be asked for          job.py   begin, resume, finish: the story of one command
results.py  what is told                   work.py  samples in, sanitized samples out, committed in chunks
save.py     manifest, ancestry, checksums  example_images.py to look at
choose.py   several noise levels to look at
listing.py  RAW, now and when the job began ledger.py, quarantine.py  one row a sample; what was left out
"""

from dpclean.pipeline.choose import sigma_sheet
from dpclean.pipeline.job import dry_run, sanitize

__all__ = ["dry_run", "sanitize", "sigma_sheet"]
