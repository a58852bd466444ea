#!/usr/bin/env bash
# Podman 5, which runs pods from Kubernetes' manifests (`podman kube play`): Debian's, from a directory. It runs in
# namespaces of its own: its network is a loopback device that nothing else sees, its processes end with it, and
# nothing of the machine changes.
#
#   tests/containers/podman.sh up               makes it ready
#   tests/containers/podman.sh podman WORD...   runs podman there; it sees this machine's files at /host
#   tests/containers/podman.sh run WORD...      runs a program of this machine in the same network, to ask the pods
#   tests/containers/podman.sh down             ends everything that runs there; images and volumes stay
#   tests/containers/podman.sh clean            removes the directory too
#
# Exit code 69: there is none, and none can be made here; the last line says what is missing.
set -euo pipefail

HOME_OF_IT=${GLYPH_PODMAN:-/var/tmp/glyph-podman}
ROOT=$HOME_OF_IT/root
HOLDER=$HOME_OF_IT/holder.pid
UNAVAILABLE=69
SUITE=trixie # the first of Debian's releases with podman 5

say() { echo "podman: $*" >&2; }

missing() {
  say "$*"
  exit "$UNAVAILABLE"
}

make_root() {
  local sources=/etc/apt/sources.list.d/debian.sources
  [ -r "$sources" ] || missing "this is not Debian, from whose packages podman would come"
  if ! command -v mmdebstrap >/dev/null; then
    say "installing mmdebstrap from Debian's packages"
    apt-get -qq update >&2
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends mmdebstrap >/dev/null
  fi
  say "making $ROOT with podman from Debian's packages"
  sed -E "s/bookworm/$SUITE/g" "$sources" >"$HOME_OF_IT/debian.sources"
  mmdebstrap --quiet --variant=minbase --include=podman,catatonit,runc,netavark,aardvark-dns,nftables,iproute2,ca-certificates \
    "$SUITE" "$ROOT.new" "$HOME_OF_IT/debian.sources" >&2
  # crun refuses a machine that has both generations of control groups.
  mkdir -p "$ROOT.new/etc/containers"
  printf '[engine]\nruntime = "runc"\n' >"$ROOT.new/etc/containers/containers.conf"
  mv "$ROOT.new" "$ROOT"
}

# The first process of the namespaces: they last as long as it does.
hold() {
  # shellcheck disable=SC2016  # the variables are the inner shell's
  ROOT=$ROOT HOLDER=$HOLDER setsid unshare --mount --net --pid --ipc --uts --fork --propagation private bash -c '
    set -e
    ip link set lo up
    mount --bind "$ROOT" "$ROOT"
    mount --rbind /sys "$ROOT/sys"
    mount --rbind /dev "$ROOT/dev"
    mount -t proc proc "$ROOT/proc"
    mount -t tmpfs tmpfs "$ROOT/run"
    mount -t tmpfs tmpfs "$ROOT/tmp"
    mkdir -p "$ROOT/host"
    # Not chroot: what enters a container that was made in a chroot finds itself outside of it.
    cd "$ROOT"
    pivot_root . host
    /usr/bin/touch "/host$HOLDER.ready"
    exec /usr/bin/sleep infinity' >"$HOME_OF_IT/holder.log" 2>&1 </dev/null &
  local outer=$!
  for _ in $(seq 100); do
    [ -e "$HOLDER.ready" ] && break
    kill -0 "$outer" 2>/dev/null || missing "no namespaces can be made here: $(tail -1 "$HOME_OF_IT/holder.log")"
    sleep 0.1 # for namespaces there is nothing to wait on
  done
  pgrep -P "$outer" >"$HOLDER"
}

# The number may be another process's by now, after a restart of the machine.
held() { [ -s "$HOLDER" ] && [ "$(cat "/proc/$(cat "$HOLDER")/comm" 2>/dev/null)" = sleep ]; }

up() {
  [ "$(id -u)" = 0 ] || missing "namespaces and a root directory want root: be root"
  mkdir -p "$HOME_OF_IT"
  [ -x "$ROOT/usr/bin/podman" ] || make_root
  held && return
  rm -f "$HOLDER" "$HOLDER.ready"
  hold
}

inside() {
  held || missing "it is not up: $0 up"
  exec nsenter --target "$(cat "$HOLDER")" "$@"
}

down() {
  held || return 0
  kill -KILL "$(cat "$HOLDER")" # everything in its process namespace ends with it
  rm -f "$HOLDER" "$HOLDER.ready"
}

case ${1-} in
  up) up ;;
  podman) inside --mount --net --pid --ipc --uts /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    PODMAN_IGNORE_CGROUPSV1_WARNING=1 "$@" ;;
  run)
    shift
    inside --net "$@"
    ;;
  down) down ;;
  clean)
    down
    rm -rf "$HOME_OF_IT"
    ;;
  *)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
