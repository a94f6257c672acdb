#!/bin/sh
# Puts the scripts of others that the dashboard loads (HTMX, its extension for server-sent events, idiomorph) where the package and its wheel have them.
# The versions and their hashes are in projections/assets/package-lock.json. Quick when there is nothing to do.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
here=$root/projections/assets
there=$root/projections/qgjet_projections/web/static/vendor

# the tests take axe-core from node_modules
[ -f "$there/.from" ] && cmp -s "$here/package-lock.json" "$there/.from" && [ -d "$here/node_modules" ] && exit 0
echo "getting the dashboard's scripts"
(cd "$here" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null)
mkdir -p "$there"
cp "$here/node_modules/htmx.org/dist/htmx.min.js" "$there/htmx.js"
cp "$here/node_modules/htmx-ext-sse/dist/sse.min.js" "$there/htmx-sse.js"
cp "$here/node_modules/idiomorph/dist/idiomorph-ext.min.js" "$there/idiomorph.js"
cp "$here/package-lock.json" "$there/.from"
