#!/usr/bin/env bash
# A denoiser for images of your own kind, from clean ones that you trust, and what it gains over the bundled one.
#
#     examples/fit_denoiser.sh TRUSTED HELD_OUT OUT [MINUTES]
#
# TRUSTED and HELD_OUT are folders of images or shards that share no image; OUT becomes a folder for --denoiser. Images
# that are to be certified must be in neither: a denoiser that has seen them is refused. Killed, it goes on where it was.
set -euo pipefail

trusted=$1 held_out=$2 out=$3 minutes=${4:-60}

dpclean denoiser fit "$trusted" --init natural --minutes "$minutes" --out "$out"
for denoiser in natural "$out"; do
  dpclean denoiser eval "$denoiser" "$held_out" --sigmas 0.1,0.25,0.5 --limit 500
done
echo "Next: dpclean sanitize RAW --sigma 0.25 --denoiser $out --out CLEAN"
