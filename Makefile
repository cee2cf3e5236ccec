# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.

PYTHON ?= python3.11
VENV ?= .venv
SIGMA ?= 0.25
RUNS ?= 40

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.dpclean-installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench gpu wheel clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# One environment for everything; made again when what it installs or compiles has changed.
$(INSTALLED): pyproject.toml $(wildcard setup.py csrc/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	@touch $@

raw: | $(INSTALLED)
	$(BIN)/python examples/make_demo_photos.py $@

small: | $(INSTALLED)
	$(BIN)/python examples/make_certify_photos.py $@

demo: $(INSTALLED) raw small  ## sanitize photographs, certify a small set, and leave two pages to look at
	$(BIN)/dpclean sanitize ./raw --sigma $(SIGMA) --out ./clean --report
	$(BIN)/dpclean certify ./small --sigma $(SIGMA) --runs $(RUNS) --out ./small-certificate
	$(BIN)/dpclean verify ./small-certificate
	@echo
	@echo "Look at clean.report.html (or clean.report.png) and at small-certificate/report.html in a browser."

test: $(INSTALLED)  ## run the tests, in as many processes as there are cores
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

lint: $(INSTALLED)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## measure what needs no data of yours; results go to benchmarks/results/
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/noise_kernels.py
	$(BIN)/python benchmarks/denoiser_speed.py

gpu: $(INSTALLED)  ## build, check and measure on a CUDA GPU, in eight minutes; started again it goes on
	$(BIN)/python benchmarks/gpu_check.py

wheel: $(INSTALLED)  ## make a manylinux wheel for each Python that is there, and try it where no compiler is
	$(BIN)/python packaging/make_wheels.py dist

clean:  ## remove what demo, test and the build left (the virtual environment stays)
	rm -rf raw clean clean.report.* .clean.dpclean small small-certificate .small-certificate.dpclean build dist *.egg-info dpclean/*.so $(INSTALLED)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
