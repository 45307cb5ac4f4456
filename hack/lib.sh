# Shared by the scripts of hack/: where things are, what they need, how they speak. Sourced, never run.
# shellcheck shell=bash
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${CORACLE_BUILD:-$TOP/build}

BUILD_PACKAGES=(gcc libc6-dev pkg-config meson ninja-build python3 libuv1-dev libnghttp2-dev libcurl4-openssl-dev
  libssl-dev libyaml-dev libpcre2-dev libsqlite3-dev libsodium-dev libnftables-dev libarchive-dev
  zlib1g-dev libseccomp-dev)
RUN_PACKAGES=(crun conmon nftables iproute2 busybox-static ca-certificates curl)
TEST_PACKAGES=(containerd runc containernetworking-plugins wrk e2fsprogs procps etcd-server etcd-client docker-registry skopeo openssl python3 python3-grpcio python3-dbus python3-gi dbus jq clang libclang-rt-14-dev python3-kubernetes)

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "this needs root: sudo $0 $*"; }

# Installs those of the packages that are missing; quick when there are none.
install_packages() {
  local missing=() p
  for p in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
  done
  [ ${#missing[@]} = 0 ] && return 0
  say "installing ${#missing[@]} packages: ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { apt-get update -qq -o Acquire::Retries=3 && DEBIAN_FRONTEND=noninteractive apt-get install -o Acquire::Retries=3 -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "apt could not install the packages (log: $log)"
  fi
  rm -f "$log"
}

# The kubectl on PATH, else Debian's.
need_kubectl() { command -v kubectl >/dev/null || install_packages kubernetes-client; }

# Some clients for tests come from npm packages. Where an npm is there already, Debian's would only be in its way.
need_npm() { command -v npm >/dev/null || install_packages npm; }

# build DIR [meson options...]: sets the folder up once, then builds what changed. FIRST_BUILD_LOG shows on failure.
build() {
  local dir=$1; shift
  [ -f "$dir/build.ninja" ] || meson setup "$dir" "$TOP" "$@" >"$dir.log" 2>&1 || { mkdir -p "$dir"; cat "$dir.log" >&2; die "meson setup failed"; }
  ninja -C "$dir" >"$dir.log" 2>&1 || { tail -n 40 "$dir.log" >&2; die "the build failed (log: $dir.log)"; }
  rm -f "$dir.log"
}
