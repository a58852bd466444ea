#!/usr/bin/env bash
# A Docker engine for the tests of the images: the machine's own where there is one, else one of Debian's packages
# that runs from a directory and is gone with it. It has no bridge and no rule in any firewall: nothing of the
# machine's network changes, and containers run with `--network none` (builds with `--network host`). A registry to
# push to, docker-registry, comes with it.
#
#   eval "$(tests/containers/engine.sh up)"   exports DOCKER_HOST and whatever else the engine needs, and for builds
#                                             BASE (`--build-arg BASE=$BASE`) and BUILD_NETWORK (`--network`)
#   tests/containers/engine.sh down           ends the engine, if `up` started one; its images stay
#   tests/containers/engine.sh clean          ends it and removes its directory
#
# Exit code 69: there is no engine, and none can be made here; the last line says what is missing.
set -euo pipefail

HOME_OF_IT=${ENGINE_HOME:-/var/tmp/glyph-engine} # short: a socket's path has at most 107 characters
OFFICIAL=python:3.11-slim-bookworm                # what the Dockerfiles build on
STAND_IN=glyph-base:python3.11-bookworm           # the same Python from Debian, where no registry answers
UNAVAILABLE=69

say() { echo "engine: $*" >&2; }

missing() {
  say "$*"
  exit "$UNAVAILABLE"
}

# Debian's releases from trixie on have a dockerd whose buildx and libraries run on bookworm too; bookworm has no buildx.
packages_of_docker() {
  local sources=/etc/apt/sources.list.d/debian.sources apt=()
  [ -r "$sources" ] || missing "no Docker daemon answers, and $sources is not there to bring one: install Docker"
  mkdir -p apt/lists/partial apt/cache/archives/partial debs
  sed 's/bookworm/trixie/g' "$sources" >apt/docker.sources
  apt=(-qq -o "Dir::Etc::SourceList=$PWD/apt/docker.sources" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt/cache" -o APT::Sandbox::User=root)
  apt-get "${apt[@]}" update >&2
  (cd debs && apt-get "${apt[@]}" download docker.io docker-cli docker-buildx containerd docker-registry >&2)
  for package in debs/*.deb; do dpkg -x "$package" root; done
  rm -rf apt debs
}

start_own() {
  [ "$(id -u)" = 0 ] || missing "no Docker daemon answers, and only root can start one: start Docker, or be root"
  command -v apt-get >/dev/null || missing "no Docker daemon answers, and this is not Debian: start Docker"
  mkdir -p "$HOME_OF_IT"
  cd "$HOME_OF_IT"
  exec 9>lock # one at a time; the daemon must not inherit it
  flock 9
  if ! command -v runc >/dev/null || ! command -v mmdebstrap >/dev/null; then
    say "installing runc and mmdebstrap from Debian's packages"
    apt-get -qq update >&2
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends runc mmdebstrap >/dev/null
  fi
  if [ ! -x root/usr/bin/docker-registry ]; then
    say "unpacking Docker from Debian's packages under $HOME_OF_IT"
    packages_of_docker
  fi
  export PATH="$HOME_OF_IT/root/usr/sbin:$HOME_OF_IT/root/usr/bin:$PATH"
  export DOCKER_HOST="unix://$HOME_OF_IT/docker.sock" DOCKER_CONFIG="$HOME_OF_IT/configuration"
  mkdir -p configuration/cli-plugins
  ln -sf "$HOME_OF_IT/root/usr/libexec/docker/cli-plugins/docker-buildx" configuration/cli-plugins/
  docker version >/dev/null 2>&1 && return
  started=yes
  setsid dockerd --data-root "$PWD/data" --exec-root "$PWD/exec" --pidfile "$PWD/dockerd.pid" --host "$DOCKER_HOST" \
    --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false >dockerd.log 2>&1 9>&- &
  for _ in $(seq 120); do
    docker version >/dev/null 2>&1 && return
    sleep 0.25 # for a daemon that is starting there is nothing to wait on
  done
  tail -5 dockerd.log >&2
  missing "dockerd did not start; its log is $HOME_OF_IT/dockerd.log"
}

# Debian's Python in the places of the official image's, without pip, and with this machine's certificates, so that
# a build reaches a package index as this machine does.
make_base() {
  command -v mmdebstrap >/dev/null || missing "$OFFICIAL cannot be pulled, and mmdebstrap is not there to make a base"
  say "no registry answers: making $STAND_IN from Debian's packages"
  # shellcheck disable=SC2016  # $1 is mmdebstrap's, not this shell's
  mmdebstrap --quiet --variant=minbase --include=usr-is-merged,python3.11,python3.11-venv,ca-certificates \
    --hook-directory=/usr/share/mmdebstrap/hooks/merged-usr \
    --customize-hook='for name in python python3 python3.11; do ln -s /usr/bin/python3.11 "$1/usr/local/bin/$name"; done' \
    --customize-hook='copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs' \
    --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/*' \
    bookworm - 2>mmdebstrap.log |
    docker import --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
      --change 'CMD ["python3"]' - "$STAND_IN" >&2
}

base() {
  for image in "$OFFICIAL" "$STAND_IN"; do
    if docker image inspect "$image" >/dev/null 2>&1; then
      echo "$image"
      return
    fi
  done
  if timeout 120 docker pull --quiet "$OFFICIAL" >/dev/null 2>&1; then
    echo "$OFFICIAL"
  else
    make_base
    echo "$STAND_IN"
  fi
}

up() {
  local chosen started=no
  if ! docker version >/dev/null 2>&1; then
    start_own
  fi
  docker buildx version >/dev/null 2>&1 || missing "this Docker has no buildx: install it (on Debian: docker-buildx)"
  chosen=$(base)
  printf 'export %s=%q\n' BASE "$chosen" ENGINE_STARTED "$started"
  if docker network inspect bridge >/dev/null 2>&1; then
    echo "export BUILD_NETWORK=default"
  else
    printf 'export %s=%q\n' BUILD_NETWORK host PATH "$PATH" DOCKER_HOST "$DOCKER_HOST" DOCKER_CONFIG "$DOCKER_CONFIG"
  fi
}

down() {
  local pid=$HOME_OF_IT/dockerd.pid
  [ -s "$pid" ] || return 0
  kill "$(cat "$pid")" 2>/dev/null || return 0
  for _ in $(seq 240); do
    [ -s "$pid" ] || return 0 # it removes the file last
    sleep 0.25
  done
  missing "dockerd does not end: $(cat "$pid")"
}

case ${1-} in
  up) up ;;
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
