#!/usr/bin/env bash
# deploy/systemd under systemd itself: start, crawl, reload, watchdog, stop, a wrong configuration, one-shot and timer.
# Run by hand as root: it boots systemd in namespaces of its own, over a throw-away copy of this machine's file system.
# Nothing of it stays. Needs systemd, unshare, overlayfs and Debian's python3-venv. About 90 s; exit 0 if all held.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)

if [ "${1:-}" != inside ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  export work repository
  if [ -d /sys/fs/cgroup/unified ]; then group=/sys/fs/cgroup/unified/trial-$$; else group=/sys/fs/cgroup/trial-$$; fi
  mkdir "$group"
  (echo "$BASHPID" >"$group/cgroup.procs"
   exec timeout -s KILL 240 unshare --mount --pid --fork --kill-child --cgroup --ipc --uts bash "$0" inside) >"$work/console" 2>&1 </dev/null || true
  rmdir "$group" 2>/dev/null || true
  cat "$work/out/trial.log" 2>/dev/null || tail -n 50 "$work/console"
  grep -q '^all held$' "$work/out/trial.log"
  exit
fi

mount --make-rprivate /
mkdir "$work/ns" "$work/out"
mount -t tmpfs tmpfs "$work/ns"
mkdir "$work"/ns/{up,work,root}
root=$work/ns/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/ns/up,workdir=$work/ns/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --bind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root/out" "$root/etc/crawler" "$root/opt/crawler" "$root/checkout"
mount --bind "$work/out" "$root/out"
mount --bind "$repository" "$root/checkout"

cp "$repository"/deploy/systemd/*.service "$repository"/deploy/systemd/*.timer "$root/etc/systemd/system/"
cp "$repository/deploy/systemd/crawler.sysusers.conf" "$root/usr/lib/sysusers.d/crawler.conf"
sed 's/^listen = .*/listen = "127.0.0.1:9796"/; s/^# metrics_listen = .*/metrics_listen = "127.0.0.1:9797"/
     s/^allow_net = .*/allow_net = ["127.0.0.0\/8"]/; s/^depth = .*/depth = 1/' "$repository/deploy/crawler.toml" >"$root/etc/crawler/crawler.toml"
cat >"$root/etc/crawler/nightly.toml" <<'END'
urls = ["http://127.0.0.1:9798/"]
allow_net = ["127.0.0.0/8"]
depth = 1
END
printf '[Unit]\nRequires=basic.target\nAfter=basic.target\nWants=trial.service\n' >"$root/etc/systemd/system/trial.target"
printf '[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nExecStart=/bin/bash /trial.sh\nStandardOutput=file:/out/trial.log\nStandardError=inherit\n' \
  >"$root/etc/systemd/system/trial.service"
for unit in systemd-udevd systemd-udev-trigger systemd-modules-load systemd-sysctl systemd-random-seed systemd-timesyncd; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit.service"
done
ln -sf /dev/null "$root/etc/systemd/system/network-online.target"

cat >"$root/trial.sh" <<'END'
set -euo pipefail
trap 'echo "failed at line $LINENO"; journalctl -u crawler -u crawler-run@nightly --no-pager | tail -n 30; systemctl exit 1' ERR
shown() { systemctl show "$1" -p "$2" --value; }
export CRAWLER_LISTEN=127.0.0.1:9796
(cp -r /checkout /tmp/checkout && python3 -m venv /opt/crawler && /opt/crawler/bin/pip install -q /tmp/checkout) 2>&1 | grep -v WARNING || true
crawler=/opt/crawler/bin/crawler
mkdir /tmp/site && echo '<a href="/b.html">b</a>' >/tmp/site/index.html && echo b >/tmp/site/b.html
python3 -m http.server 9798 --bind 127.0.0.1 --directory /tmp/site >/dev/null 2>&1 &
systemd-sysusers

systemctl start crawler
$crawler add http://127.0.0.1:9798/
for _ in $(seq 50); do [ "$(shown crawler StatusText | grep -c '^3/3 URLs')" = 1 ] && break; sleep 0.5; done
echo "status: $(shown crawler StatusText)"
shown crawler StatusText | grep -q '^3/3 URLs'
pid=$(shown crawler MainPID)
grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' "/proc/$pid/status"
for name in process_start_time_seconds process_open_fds crawler_memory_rss_bytes; do
  python3 -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:9797/metrics").read().decode())' | grep "^$name [1-9]"
done

sed -i 's/^delay = .*/delay = "3s"/' /etc/crawler/crawler.toml
systemctl reload crawler
sleep 1
python3 -c 'import json, urllib.request; assert json.load(urllib.request.urlopen("http://127.0.0.1:9796/v1/settings"))["delay"] == 3'
echo 'reloaded'

kill -STOP "$pid"
for _ in $(seq 60); do next=$(shown crawler MainPID); [ "$next" != 0 ] && [ "$next" != "$pid" ] && break; sleep 1; done
[ "$next" != "$pid" ]
sleep 4
[ "$(shown crawler NRestarts) $(shown crawler ActiveState)" = '1 active' ]
$crawler status | grep '3 of 3 done'
echo 'restarted by the watchdog'

systemctl stop crawler
[ "$(shown crawler Result) $(shown crawler ExecMainStatus)" = 'success 0' ]
systemctl start crawler-run@nightly
[ "$(shown crawler-run@nightly Result)" = success ]
$crawler results /var/lib/crawler/nightly --final | grep -c '"outcome":"ok"' | grep -x 2
systemctl start crawler-run@nightly.timer
systemctl list-timers --all --no-pager | grep nightly
stat -c '%U %a %n' /var/lib/crawler/default /var/lib/crawler/nightly

echo 'rate = "x"' >/etc/crawler/crawler.toml
if systemctl start crawler; then false; fi
sleep 7
[ "$(shown crawler ExecMainStatus) $(shown crawler NRestarts)" = '2 0' ]
echo 'a wrong configuration is not tried again'
echo 'all held'
systemctl exit 0
END

cd "$root"
mkdir old
pivot_root . old
umount -l /old
exec env -i container=docker PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=trial.target --log-target=console
