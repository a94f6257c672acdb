#!/bin/sh
# tools/audit.sh PYTHON [LOCK ...]: are there known holes in what the locks name? pip-audit asks PyPI, in an environment of its own under .tools.
# Ends with 0: none is known. 1: there are some. 3: the data, or pip-audit itself, could not be had, so nothing is known; that is no pass.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
python=$1
shift
[ $# -gt 0 ] || set -- requirements.lock requirements-dev.lock
tool=$here/.tools/audit
if [ ! -x "$tool/bin/pip-audit" ]; then
    echo "installing pip-audit"
    "$python" -m venv "$tool" && "$tool/bin/python" -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3' || {
        rm -rf "$tool"
        echo "NOT AUDITED: pip-audit could not be installed, so nothing is known about the locks." >&2
        exit 3
    }
fi
cd "$here"
exec "$python" tools/audit.py "$tool/bin/pip-audit" "$@"
