#!/bin/sh
# Sees to it that there is an adb for the tests of agents: the machine's own, else Debian's package. Quick when there is nothing to do.
set -eu

command -v adb >/dev/null 2>&1 && exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  echo "adb: none here, installing Debian's"
  apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends adb >/dev/null && exit 0
fi
echo "adb: none here, and the tests of agents need one. Install it: sudo apt install adb, or what your system has" >&2
exit 1
