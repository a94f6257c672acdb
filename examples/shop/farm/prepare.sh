#!/bin/sh
# Gets a device ready for one session: starts a farm of its own, and for BrowserStack uploads the build, once for all
# jobs of the session. A real host would boot its emulator and start its Appium here.
# Reads QGJET_TARGET, QGJET_SESSION_DIR, QGJET_ENV and APP_BUILD_PATH; the farm stays behind in this process group.
set -eu
farm=$(cd "$(dirname "$0")" && pwd)
dir=$QGJET_SESSION_DIR

set_env() { printf '%s\n' "$1" >>"$QGJET_ENV"; }

# The farm prints its address into the pipe. If it dies first, read sees the end of it: nothing to poll, no deadline.
rm -f "$dir/ready"
mkfifo "$dir/ready"
node "$farm/server.cjs" >"$dir/ready" 2>"$dir/farm.log" </dev/null &
echo $! >"$dir/farm.pid"
trap 'kill $! 2>/dev/null || true' EXIT # until all went well
read -r FARM_URL <"$dir/ready" || { cat "$dir/farm.log" >&2; exit 1; }
rm "$dir/ready"

# appwright's own addresses are fixed; this sends them to the farm
export FARM_URL NODE_OPTIONS="--require \"$farm/redirect.cjs\"${NODE_OPTIONS:+ $NODE_OPTIONS}"
set_env "FARM_URL=$FARM_URL"
set_env "NODE_OPTIONS=$NODE_OPTIONS"

case $QGJET_TARGET in
browserstack)
  export BROWSERSTACK_USERNAME=shop BROWSERSTACK_ACCESS_KEY=double
  app_url=$(node "$farm/upload.cjs" "$APP_BUILD_PATH")
  set_env "BROWSERSTACK_USERNAME=$BROWSERSTACK_USERNAME"
  set_env "BROWSERSTACK_ACCESS_KEY=$BROWSERSTACK_ACCESS_KEY"
  set_env "BROWSERSTACK_APP_URL_BROWSERSTACK=$app_url"
  ;;
emulator | device)
  set_env "ANDROID_HOME=$farm/sdk"
  set_env "JAVA_HOME=$farm/sdk" # appwright only wants it to be set
  set_env "PATH=$farm/bin:$farm/sdk/platform-tools:$PATH"
  ;;
*)
  echo "farm/prepare.sh: no such target: $QGJET_TARGET (emulator, device or browserstack)" >&2
  exit 1
  ;;
esac
trap - EXIT
