#!/bin/sh
# OpenMP's library, which LightGBM needs, for an environment on a machine that lacks it: Debian's own package, unpacked into the
# environment, so that nobody has to be root. Checked by apt's signatures, as an installed one is.
#   infra/lock/openmp.sh .venv
set -eu
venv=$(cd "$1" && pwd)
LIBRARY=libgomp.so.1
if { /sbin/ldconfig -p 2>/dev/null || ldconfig -p; } | grep -q "$LIBRARY"; then exit 0; fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
(cd "$scratch" && apt-get download -q libgomp1 >apt.log 2>&1 && dpkg-deb -x libgomp1_*.deb unpacked) || {
    sed 's/^/  /' "$scratch/apt.log" >&2 2>/dev/null || true
    echo "error: LightGBM needs OpenMP's library; on Debian 12: apt-get install libgomp1 (as root; or, to have it here: apt-get update)" >&2
    exit 2
}
mkdir -p "$venv/lib/openmp"
cp -L "$(find "$scratch/unpacked" -name "$LIBRARY")" "$venv/lib/openmp/$LIBRARY"
# A library that is loaded already is what another's need of that name is met with; nothing else in the environment is changed.
for packages in "$venv"/lib/python3*/site-packages; do
    echo "import ctypes, os, sys; ctypes.CDLL(os.path.join(sys.prefix, 'lib', 'openmp', '$LIBRARY'))" >"$packages/openmp.pth"
done
echo "OpenMP's library was unpacked into $1, as this machine has none"
