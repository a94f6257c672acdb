#!/bin/sh
# Gets the `nats` command into .tools/bin, for the one test that reads our streams with it: from the machine, else built by Go. Without either that test is
# skipped, but fails in CI; this never fails.
set -u

bin=$(cd "$(dirname "$0")/.." && pwd)/.tools/bin
if [ -x "$bin/nats" ] || command -v nats >/dev/null 2>&1; then exit 0; fi
if ! command -v go >/dev/null 2>&1; then
  echo "nats CLI: neither nats nor go on this machine, its test will be skipped"
  exit 0
fi
echo "nats CLI: building it with Go (once, a minute or two)"
mkdir -p "$bin"
log=$bin/nats-build.log
if GOBIN=$bin go install "github.com/nats-io/natscli/nats@${NATS_CLI_VERSION:-latest}" >"$log" 2>&1; then
  rm -f "$log"
else
  tail -n 5 "$log" >&2
  echo "nats CLI: could not be built, its test will be skipped (all of it: .tools/bin/nats-build.log)"
fi
