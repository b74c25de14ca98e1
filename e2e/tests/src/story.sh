#!/bin/sh
# The quickstart's story. In the lab: story.sh MASTER SHADOW BITMAP COPY COPY-BITMAP, with umbra-io running.
# On a host with ublk: story.sh --host PROGRAM makes file-backed devices, starts umbra-io, and cleans up.
set -eu
now() { date +%s%N; }
step() { STEP=$1; STARTED=$(now); printf '\n== %s\n' "$1"; }
took() { printf '   (%s ms)\n' $((($(now) - STARTED) / 1000000)); }
fail() { printf 'FAILED: %s\n' "$1"; exit 1; }
as_postgres() { runuser -u postgres -- "$@"; }
# Debian keeps the servers' programs out of the path.
for bin in /usr/lib/postgresql/*/bin; do PATH=$bin:$PATH; done
UMBRA=umbra-io
CTL_SOCKET=/run/umbra/io.sock

if [ "$1" = --host ]; then
  UMBRA=$2
  WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/umbra-story.XXXXXX")
  # The servers' own user must reach its data.
  chmod 755 "$WORK"
  CTL_SOCKET=$WORK/io.sock
  MOUNTS=$WORK/mnt
  cleanup() {
    as_postgres pg_ctl -D "$MOUNTS/pg/data" -m immediate stop >/dev/null 2>&1 || true
    as_postgres pg_ctl -D "$MOUNTS/merged/data" -m immediate stop >/dev/null 2>&1 || true
    for m in merged overlay shadow pg; do umount "$MOUNTS/$m" >/dev/null 2>&1 || true; done
    "$UMBRA" ctl --socket "$CTL_SOCKET" disable copy >/dev/null 2>&1 || true
    "$UMBRA" ctl --socket "$CTL_SOCKET" disable shadow >/dev/null 2>&1 || true
    "$UMBRA" ctl --socket "$CTL_SOCKET" detach pg >/dev/null 2>&1 || true
    [ -z "${DAEMON:-}" ] || kill "$DAEMON" 2>/dev/null || true
    rm -rf "$WORK"
  }
  trap cleanup EXIT
  step 'Making file-backed devices with PostgreSQL on one of them'
  for f in pg:512 shadow:512 bitmap:64 copy:512 copy-bitmap:64; do truncate -s "${f#*:}M" "$WORK/${f%:*}.img"; done
  set -- "$WORK/pg.img" "$WORK/shadow.img" "$WORK/bitmap.img" "$WORK/copy.img" "$WORK/copy-bitmap.img"
  mkfs.ext4 -q -F "$1"
  mkdir -p "$MOUNTS/pg"
  LOOPLESS=yes
  "$UMBRA" run --state-dir "$WORK/state" --socket "$CTL_SOCKET" --by-id "$WORK/by-id" 2>"$WORK/io.log" &
  DAEMON=$!
  for _ in $(seq 100); do "$UMBRA" ctl --socket "$CTL_SOCKET" list >/dev/null 2>&1 && break; sleep 0.1; done
  took
else
  WORK=/tmp/story
  MOUNTS=/srv
  mkdir -p "$WORK"
  LOOPLESS=
fi
MASTER=$1 SHADOW=$2 BITMAP=$3 COPY=$4 COPY_BITMAP=$5
ctl() { "$UMBRA" ctl --socket "$CTL_SOCKET" "$@"; }
field() { sed -n "s/.*\"$1\":\"\\([^\"]*\\)\".*/\\1/p"; }
number() { sed -n "s/.*\"$1\":\\([0-9]*\\).*/\\1/p"; }
start_pg() { as_postgres pg_ctl -D "$1" -w -t 120 -o "-p $2 -k /tmp -c listen_addresses=''" -l "$WORK/pg-$2.log" start >/dev/null; }
stop_pg() { as_postgres pg_ctl -D "$1" -m fast -w stop >/dev/null; }
sql() { as_postgres psql -h /tmp -p "$1" -qtA -c "$2" bench; }
touch "$WORK/pg-5432.log" "$WORK/pg-5433.log"; chmod 666 "$WORK"/pg-*.log; chmod 755 "$WORK"

step 'Interposing the disk; its content is not touched'
[ -n "$LOOPLESS" ] || BEFORE=$(sha256sum <"$MASTER")
OPENED=$(ctl --json attach "$MASTER" --name pg --accept-weak-identity)
DEVICE=$(printf %s "$OPENED" | field device)
[ -n "$LOOPLESS" ] || [ "$(sha256sum <"$DEVICE")" = "$BEFORE" ] || fail 'the presented disk is not the disk'
echo "   $MASTER is now used through $DEVICE"
took

step 'PostgreSQL starts on the presented disk'
mkdir -p "$MOUNTS/pg"
mount "$DEVICE" "$MOUNTS/pg"
if [ -n "$LOOPLESS" ]; then
  install -d -o postgres -g postgres -m 700 "$MOUNTS/pg/data"
  as_postgres initdb -D "$MOUNTS/pg/data" --auth=trust --no-locale --encoding=UTF8 --data-checksums >/dev/null
  start_pg "$MOUNTS/pg/data" 5432
  as_postgres createdb -h /tmp bench
  as_postgres pgbench -h /tmp -i -q -s 1 bench >/dev/null 2>&1
else
  start_pg "$MOUNTS/pg/data" 5432
fi
ACCOUNTS=$(sql 5432 'select count(*) from pgbench_accounts')
echo "   $ACCOUNTS accounts"
took

step 'A dependent shadow is cut while pgbench writes'
as_postgres pgbench -h /tmp -c 4 -T 20 bench >"$WORK/pgbench.log" 2>&1 &
LOAD=$!
sleep 4
STARTED=$(now)
ENABLED=$(ctl --json enable shadow --master pg --mode dependent --shadow "$SHADOW" --bitmap "$BITMAP")
took
SHADOW_DEVICE=$(printf %s "$ENABLED" | field shadowDevice)
echo "   the image is $SHADOW_DEVICE"
wait "$LOAD" || fail "pgbench saw an error: $(cat "$WORK/pgbench.log")"
grep -E 'tps|transactions actually' "$WORK/pgbench.log" | sed 's/^/   /'
HISTORY=$(sql 5432 'select count(*) from pgbench_history')
ctl map shadow --width 64 | sed 's/^/   /'

step 'The shadow is mounted read-only, and a second PostgreSQL recovers on an overlay of it'
mkdir -p "$MOUNTS/shadow" "$MOUNTS/overlay" "$MOUNTS/merged"
# The image was taken of a mounted file system: its journal is replayed in memory only if the device may be written.
mount -o ro "$SHADOW_DEVICE" "$MOUNTS/shadow"
mount -t tmpfs tmpfs "$MOUNTS/overlay"
mkdir "$MOUNTS/overlay/upper" "$MOUNTS/overlay/work"
mount -t overlay overlay -o "lowerdir=$MOUNTS/shadow,upperdir=$MOUNTS/overlay/upper,workdir=$MOUNTS/overlay/work" "$MOUNTS/merged"
rm -f "$MOUNTS/merged/data/postmaster.pid"
start_pg "$MOUNTS/merged/data" 5433
IMAGE_ACCOUNTS=$(sql 5433 'select count(*) from pgbench_accounts')
IMAGE_HISTORY=$(sql 5433 'select count(*) from pgbench_history')
stop_pg "$MOUNTS/merged/data"
umount "$MOUNTS/merged"; umount "$MOUNTS/overlay"; umount "$MOUNTS/shadow"
[ "$IMAGE_ACCOUNTS" = "$ACCOUNTS" ] || fail "the image has $IMAGE_ACCOUNTS accounts, the master $ACCOUNTS"
[ "$IMAGE_HISTORY" -le "$HISTORY" ] || fail "the image has more history ($IMAGE_HISTORY) than the master ($HISTORY)"
[ "$IMAGE_HISTORY" -gt 0 ] || fail 'the image has no history: it was not cut under load'
echo "   $IMAGE_ACCOUNTS accounts and $IMAGE_HISTORY transactions in the image; the master has gone on to $HISTORY"
took

step 'A bad migration on the master; the image still has the rows'
sql 5432 'delete from pgbench_accounts where aid % 2 = 0' >/dev/null
LEFT=$(sql 5432 'select count(*) from pgbench_accounts')
mount -o ro "$SHADOW_DEVICE" "$MOUNTS/shadow"; mount -t tmpfs tmpfs "$MOUNTS/overlay"
mkdir "$MOUNTS/overlay/upper" "$MOUNTS/overlay/work"
mount -t overlay overlay -o "lowerdir=$MOUNTS/shadow,upperdir=$MOUNTS/overlay/upper,workdir=$MOUNTS/overlay/work" "$MOUNTS/merged"
rm -f "$MOUNTS/merged/data/postmaster.pid"
start_pg "$MOUNTS/merged/data" 5433
IMAGE_ACCOUNTS=$(sql 5433 'select count(*) from pgbench_accounts')
stop_pg "$MOUNTS/merged/data"
umount "$MOUNTS/merged"; umount "$MOUNTS/overlay"; umount "$MOUNTS/shadow"
[ "$IMAGE_ACCOUNTS" = "$ACCOUNTS" ] || fail 'the image has lost rows'
echo "   $LEFT of $ACCOUNTS accounts on the master, $IMAGE_ACCOUNTS in the image"
took

step 'Restoring in place: PostgreSQL stops, its disk becomes what the image is, at once'
stop_pg "$MOUNTS/pg/data"
umount "$MOUNTS/pg"
STARTED=$(now)
ctl update to-master shadow --yes >/dev/null
echo "   restored; the chunks that differ are copied back behind the scenes"
took

step 'PostgreSQL starts on the restored disk, and the rows are back'
mount "$DEVICE" "$MOUNTS/pg"
# The image was cut while the server ran: it recovers, as after a power cut.
rm -f "$MOUNTS/pg/data/postmaster.pid"
start_pg "$MOUNTS/pg/data" 5432
RESTORED_ACCOUNTS=$(sql 5432 'select count(*) from pgbench_accounts')
RESTORED_HISTORY=$(sql 5432 'select count(*) from pgbench_history')
[ "$RESTORED_ACCOUNTS" = "$ACCOUNTS" ] || fail "$RESTORED_ACCOUNTS of $ACCOUNTS accounts are back"
[ "$RESTORED_HISTORY" = "$IMAGE_HISTORY" ] || fail "$RESTORED_HISTORY transactions on the master, $IMAGE_HISTORY in the image"
echo "   $RESTORED_ACCOUNTS accounts and $RESTORED_HISTORY transactions, as in the image"
took

step 'The copy back ends while the server runs; then the master needs the shadow no more'
ctl wait shadow --timeout 5m >/dev/null
ctl disable shadow >/dev/null
took

step 'An independent copy is made in the background, while the server runs'
ctl --json enable copy --master pg --mode independent --shadow "$COPY" --bitmap "$COPY_BITMAP" >/dev/null
ctl wait copy --timeout 5m >/dev/null
TOTAL=$(ctl --json status copy | number total)
echo "   $TOTAL chunks copied; the copy is a plain image"
took

step 'An update moves only what changed'
sql 5432 'update pgbench_branches set bbalance = 0' >/dev/null
sql 5432 'checkpoint' >/dev/null
CHANGED=$(ctl --json status copy | sed -n 's/.*"differs":\([0-9]*\).*/\1/p')
ctl update to-shadow copy --wait >/dev/null
echo "   about $CHANGED of $TOTAL chunks had changed"
[ "$CHANGED" -lt "$TOTAL" ] || fail 'everything was copied again'
took

stop_pg "$MOUNTS/pg/data"
umount "$MOUNTS/pg"
step 'Taking Umbra out again; the disk is as it always was'
ctl disable copy >/dev/null
ctl detach pg >/dev/null
if [ -z "$LOOPLESS" ]; then mount "$MASTER" "$MOUNTS/pg"; umount "$MOUNTS/pg"; fi
took
printf '\nTHE END\n'
