#!/bin/sh
# Prints a Python that the locks are for (requires-python in pyproject.toml) and that can make virtual environments: the
# one that is named; else the newest of this machine; else one that uv downloads into DIRECTORY.
#   lock/python.sh DIRECTORY [PYTHON]
set -eu
locks=$(dirname "$0")
directory=$1 named=${2-}

requires=$(sed -n 's/^requires-python = "\(.*\)"$/\1/p' "$locks/../pyproject.toml")
lowest=${requires#>=3.} lowest=${lowest%%,*} above=${requires##*<3.} # 11 and 15 of >=3.11,<3.15
versions="Python 3.$lowest to 3.$((above - 1))"

choose() { # PYTHON...: the first that will do ends the search
  for python; do
    # Debian packs ensurepip by itself, in python3-venv.
    if "$python" -c "import sys, venv, ensurepip
sys.exit(not (3, $lowest) <= sys.version_info < (3, $above))" 2>/dev/null; then
      echo "$python"
      exit
    fi
  done
}

install_uv() { # uv is a program of its own, which a Python of any version can install
  mkdir -p "$directory"
  sed -n '/^uv==/,/# via/p' "$locks/development.txt" >"$directory/uv.txt"
  set -- -m pip --disable-pip-version-check --retries 1 install --require-hashes -r "$directory/uv.txt"
  { python3 -m venv "$directory/uv" && "$directory/uv/bin/python" "$@"; } || python3 "$@" --target "$directory/uv"
}

fail() {
  echo "error: $*" >&2
  exit 1
}

if [ -n "$named" ]; then
  choose "$named"
  fail "$named is not $versions with venv and ensurepip; on Debian: apt-get install python3-venv"
fi

minor=$above
while [ "$minor" -gt "$lowest" ]; do
  minor=$((minor - 1))
  choose "python3.$minor"
done
choose python3 "$directory"/cpython-*/bin/python3

missing="$versions with venv is needed, and is not here"
install="install one, on Debian by apt-get install python3-venv, or name one: make PYTHON=/path/to/python3"
uv=$(command -v uv) || uv=$directory/uv/bin/uv
test -x "$uv" || install_uv >/dev/null 2>&1 || fail "$missing, nor uv, which would download one; $install"
choose "$("$uv" python find --no-project --system --no-python-downloads "$requires" 2>/dev/null)"
echo "downloading Python into $directory, because $versions with venv is not here" >&2
said=$(UV_HTTP_RETRIES=${UV_HTTP_RETRIES-1} UV_PYTHON_INSTALL_BIN=0 UV_PYTHON_INSTALL_DIR=$directory \
  "$uv" python install "$requires" 2>&1) || fail "$missing, and uv cannot download one ($(echo "$said" | sed '$!d; s/.*cause: //')); $install"
choose "$directory"/cpython-*/bin/python3
fail "$missing; $install"
