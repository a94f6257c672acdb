#!/bin/sh
# Makes the virtual environment given as $1 with the first Python of this machine that is new enough. $PYTHON, if set, is the only one tried.
set -eu

dir=$1
found=

try() { # sets py when `$1` is a Python >= 3.11 that can make environments with pip
  command -v "$1" >/dev/null 2>&1 || return 1
  # a pyenv shim of a version that is not active is there and does not run
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || return 1
  found=$1
  # Debian and Ubuntu ship Python without these
  "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 || return 1
  py=$1
}

for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
  if try "$candidate"; then
    echo "environment: $dir ($("$py" -c 'import platform; print("Python", platform.python_version())'))"
    rm -rf "$dir"
    "$py" -m venv "$dir" || { rm -rf "$dir"; exit 1; }
    exit 0
  fi
done

if [ -n "$found" ]; then
  version=$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  echo "$found has no pip for virtual environments. On Debian and Ubuntu: sudo apt install python$version-venv" >&2
else
  echo "No Python 3.11 or later on this machine${PYTHON:+ (PYTHON=$PYTHON)}. Install one, or name it: make PYTHON=/path/to/python3.12" >&2
fi
exit 1
