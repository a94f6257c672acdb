#!/bin/sh
# nats-server with the arguments given, for docker-compose.yml: makes a random password for each role of nats.conf at the first start.
# QGJET_SECRETS is the directory that keeps them all, one file each; QGJET_SECRETS_AGENT and QGJET_SECRETS_API get the copies that agents and the API read.
set -eu

for role in submitter agent projector api janitor operator; do
  file=$QGJET_SECRETS/$role
  if [ ! -s "$file" ]; then
    # a letter first: nats-server would take digits for a number
    printf 'p%s' "$(head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n')" > "$file.new"
    mv "$file.new" "$file"
  fi
  export "QGJET_NATS_$(echo "$role" | tr a-z A-Z)_PASSWORD=$(cat "$file")"
done
# -f: a copy of an earlier start is read-only, for root too where it has no capabilities
cp -f "$QGJET_SECRETS/agent" "$QGJET_SECRETS_AGENT/"
cp -f "$QGJET_SECRETS/api" "$QGJET_SECRETS/janitor" "$QGJET_SECRETS_API/"
# whoever mounts a volume may read it: the containers have users of their own
chmod 0444 "$QGJET_SECRETS_AGENT"/* "$QGJET_SECRETS_API"/*

exec nats-server "$@"
