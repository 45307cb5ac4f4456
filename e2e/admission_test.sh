#!/usr/bin/env bash
# Webhooks, policies and the audit log, with a real kubectl against an API server of its own: no node, no controllers.
. "$(dirname "$0")/lib.sh"

PORT=${ADMISSION_TEST_PORT:-21443}
HOOKS=$((PORT + 1))
DIR=$WORK/api
LOG=$WORK/hooks.log
export KUBECONFIG=$DIR/admin.kubeconfig
PIDS=()
at_exit() { kill "${PIDS[@]}" 2>/dev/null; wait 2>/dev/null; rm -rf "$WORK"; }
trap at_exit EXIT

start_server() { # [flags]
  "$BUILD/apiserver/coracle-apiserver" --data-dir "$DIR" --secure-port "$PORT" --bind-address 127.0.0.1 \
    --advertise-address 127.0.0.1 "$@" >>"$WORK/apiserver.log" 2>&1 &
  SERVER=$!
  PIDS+=("$SERVER")
  until_ok 60 kubectl get --raw /readyz || { tail -n 20 "$WORK/apiserver.log"; exit 1; }
}
stop_server() { kill "$SERVER"; wait "$SERVER" 2>/dev/null; }

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=hooks \
  -addext 'subjectAltName=IP:127.0.0.1' -keyout "$WORK/hook.key" -out "$WORK/hook.crt" 2>/dev/null
python3 "$TOP/e2e/hook_server.py" "$HOOKS" "$WORK/hook.crt" "$WORK/hook.key" "$LOG" &
PIDS+=($!)
CA=$(base64 -w0 <"$WORK/hook.crt")
# Debian's kubectl is too old for --subresource.
kubectl patch --help | grep -q -- --subresource || PATH=$(dirname "$(client_npm 35 kubectl)"):$PATH
start_server

# api METHOD PATH BODY: the bare answer, as the admin.
api() {
  curl -sk --cert "$WORK/admin.crt" --key "$WORK/admin.key" -X "$1" -H 'Content-Type: application/json' -d "$3" "https://127.0.0.1:$PORT$2"
}
for f in crt:client-certificate-data key:client-key-data; do
  kubectl config view --raw -o "jsonpath={.users[0].user.${f#*:}}" | base64 -d >"$WORK/admin.${f%%:*}"
done

for part in "$TOP"/e2e/admission/*.sh; do
  printf '== %s\n' "$(basename "$part" .sh)"
  . "$part"
done
finish
