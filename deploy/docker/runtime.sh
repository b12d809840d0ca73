#!/bin/sh
# Second stage of the image: certificates, an init, a user of its own and its data directory. Needs root and Debian.
# runtime.sh DATA; .ci/run runs it too, since no container engine runs there.
set -eu
data=$1
apt-get update -qq
apt-get install -y -qq --no-install-recommends ca-certificates tini >/dev/null
rm -rf /var/lib/apt/lists/*
getent group crawler >/dev/null || groupadd --gid 10001 crawler
getent passwd crawler >/dev/null || useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin crawler
install -d -o 10001 -g 10001 -m 0750 "$data"
tini --version
