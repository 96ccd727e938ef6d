#!/usr/bin/env bash
# Resolve the requirements anew: hashes in, addresses out. requirements.lock is what a step needs and is part of every
# record; requirements-dev.lock adds what compiles, tests and builds, at the same versions.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v uv >/dev/null || { echo "error: uv is not installed; pip install uv" >&2; exit 2; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# What builds the package itself, as installing happens without build isolation.
printf 'hatchling>=1.27\neditables>=0.5\n' > "$scratch/build.in"
options=(--python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet)
uv pip compile pyproject.toml "$scratch/build.in" --all-extras "${options[@]}" -o "$scratch/dev.lock"
uv pip compile pyproject.toml -c "$scratch/dev.lock" "${options[@]}" -o "$scratch/steps.lock"
mv "$scratch/dev.lock" requirements-dev.lock
mv "$scratch/steps.lock" requirements.lock
