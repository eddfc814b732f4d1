#!/bin/sh
# Make configure from configure.ac; needed in a checkout, not in a tarball.
set -eu

cd "$(dirname "$0")"
missing=
command -v autoreconf >/dev/null || missing="$missing autoconf"
command -v automake >/dev/null || missing="$missing automake"
command -v pkg-config >/dev/null || missing="$missing pkg-config"
command -v make >/dev/null && command -v cc >/dev/null ||
    missing="$missing build-essential"
if [ -n "$missing" ]; then
	echo "autogen.sh: these Debian packages are missing:$missing" >&2
	echo "On Debian as root: apt-get install$missing" >&2
	exit 1
fi
exec autoreconf --force --install
