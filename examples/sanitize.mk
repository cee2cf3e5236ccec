# Sanitizing as one step of a build: images are sanitized when they are new or have changed, then used.
#
#     make -f examples/sanitize.mk RAW=./raw OUT=./clean TRAIN='python train.py'
#
# OUT appears by one rename when everything in it is complete, so its dpclean.json is the target. A run that was
# interrupted goes on where it stopped; where RAW has changed since, OUT is made anew.

RAW ?= raw
OUT ?= clean
SIGMA ?= 0.25
TRAIN ?= echo now train on

.PHONY: train changed
train: $(OUT)/dpclean.json
	$(TRAIN) '$(OUT)'

# asked of find and not listed as prerequisites, since names of images may hold spaces
CHANGED := $(shell test -e '$(OUT)/dpclean.json' && find '$(RAW)' -newer '$(OUT)/dpclean.json' -print -quit)

$(OUT)/dpclean.json: $(if $(CHANGED),changed)
	dpclean sanitize '$(RAW)' --sigma $(SIGMA) --out '$(OUT)' --quiet $(if $(CHANGED),--overwrite)
