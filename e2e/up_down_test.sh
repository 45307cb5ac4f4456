#!/usr/bin/env bash
# The two commands of the README's first screen: up serves a page, again is quick, down leaves nothing.
. "$(dirname "$0")/lib.sh"
"$CORACLE" down --purge >/dev/null 2>&1

snapshot() { # what a cluster could leave behind
  { ip -o link | awk '{print $2}'; ip -o -4 addr | awk '{print $2, $4}'; ip route; nft list tables
    grep -E 'coracle' /proc/self/mountinfo | awk '{print $5}'
    find /sys/fs/cgroup -maxdepth 3 \( -name 'kubepods*' -o -name 'coracle*' \) 2>/dev/null
    ps -eo stat,comm | awk '$1 !~ /^Z/ && $2 ~ /^(coracle|conmon|crun)/ {print $2}'; } 2>/dev/null | sort
}
snapshot >"$WORK/before"
check_out "hack/up serves the page by address and by name" '<h1>Hello from coracle</h1>' "$TOP/hack/up"
start=$SECONDS
check_out "hack/up again is harmless" 'already running' "$TOP/hack/up"
[ $((SECONDS - start)) -lt 60 ] && pass "and quick" || fail "and quick" "$((SECONDS - start)) s"
check_out "status: everything runs" 'apiserver +running' "$CORACLE" status
check "doctor has nothing against this machine" "$CORACLE" doctor
check "the programs take flags of the operator's" "$CORACLE" up --kubelet-arg=max-pods=17 --kube-apiserver-arg=v=1
check "which count from the next start" "$CORACLE" down --keep-pods
check "on" "$CORACLE" up
check "and are remembered" kubectl --kubeconfig /var/lib/coracle/admin.kubeconfig wait node --all --for='jsonpath={.status.capacity.pods}=17' --timeout=120s
check "hack/down" "$TOP/hack/down"
nothing_new() { snapshot >"$WORK/after"; diff "$WORK/before" "$WORK/after"; }
soon_empty "nothing is left behind" nothing_new
[ ! -e /var/lib/coracle ] && [ ! -e /run/coracle ] && pass "no data is left" || fail "no data is left"
finish
