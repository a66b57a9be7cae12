#!/bin/sh
# Measures on a GPU the speed-up of sampling, see benchmarks/sampling.py. Not yet run on one.
#   sh benchmarks/gpu.sh OUT      writes OUT/*.json and OUT/*.txt
set -eu
out=${1:?give a folder for the results}
mkdir -p "$out"
nvidia-smi > "$out/machine.txt"
python benchmarks/sampling.py --device cuda --json "$out/sampling.json" | tee "$out/sampling.txt"
