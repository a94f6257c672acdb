#!/bin/sh
# Gets `actionlint` into .tools/bin, for the test that checks our workflows with it: from the machine, else built by Go. Without either that test is skipped,
# so this never fails.
set -u

bin=$(cd "$(dirname "$0")/.." && pwd)/.tools/bin
if [ -x "$bin/actionlint" ] || command -v actionlint >/dev/null 2>&1; then exit 0; fi
if ! command -v go >/dev/null 2>&1; then
  echo "actionlint: neither actionlint nor go on this machine, its test will be skipped"
  exit 0
fi
echo "actionlint: building it with Go (once, a few seconds)"
mkdir -p "$bin"
log=$bin/actionlint-build.log
if GOBIN=$bin go install "github.com/rhysd/actionlint/cmd/actionlint@${ACTIONLINT_VERSION:-latest}" >"$log" 2>&1; then
  rm -f "$log"
else
  tail -n 5 "$log" >&2
  echo "actionlint: could not be built, its test will be skipped (all of it: .tools/bin/actionlint-build.log)"
fi
