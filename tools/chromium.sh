#!/bin/sh
# Sees to it that there is a Chromium for the tests of the dashboard: the machine's own, else Debian's package. Quick when there is nothing to do.
set -eu

for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null 2>&1 && exit 0
done
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  echo "Chromium: none here, installing Debian's"
  apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null && exit 0
fi
echo "Chromium: none here, and the tests of the dashboard need one. Install it: sudo apt install chromium, or what your system has" >&2
exit 1
