#!/usr/bin/python3
"""A device plugin for the tests: device_plugin.py RESOURCE FOLDER COUNT [NODE]. FOLDER is the kubelet's device-plugins. Its
devices are d0, d1, ...; all of them are /dev/zero, near to the NUMA node if one is given. SIGUSR1 makes the last one unhealthy. Calls go to stdout."""
import json
import os
import signal
import sys
import threading

import grpc
from grpc_server import fields, put, serve

RESOURCE, FOLDER, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
NODE = sys.argv[4:]
changed = threading.Event()
sick = set()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])


def log(method, **what):
    print(json.dumps({"method": method, **what}), flush=True)


def strings(message, number):
    return [x.decode() for x in message.get(number, [])]


def topology():
    return b"".join(put(3, put(1, put(1, int(node)))) for node in NODE)


def list_and_watch(m):
    while True:
        changed.clear()
        yield b"".join(put(1, put(1, "d%d" % i) + put(2, "Unhealthy" if i in sick else "Healthy") + topology()) for i in range(COUNT))
        changed.wait()


def allocate(m):
    out = b""
    for one in m.get(1, []):
        ids = strings(fields(one), 1)
        log("Allocate", ids=ids)
        env = put(1, put(1, "DEVICES") + put(2, ",".join(ids)))
        out += put(1, env + put(3, put(1, "/dev/test0") + put(2, "/dev/zero") + put(3, "rw")) + put(2, put(1, "/plugin") + put(2, FOLDER) + put(3, 1)))
    return out


def preferred(m):
    out = b""
    for one in m.get(1, []):
        f = fields(one)
        best = sorted(strings(f, 1), reverse=True)[:f.get(3, [0])[-1]]
        log("GetPreferredAllocation", chosen=best)
        out += put(1, b"".join(put(1, x) for x in best))
    return out


def pre_start(m):
    log("PreStartContainer", ids=strings(m, 1))
    return b""


OPTIONS = put(1, 1) + put(2, 1)
server = serve(FOLDER + "/test.sock", ["v1beta1.DevicePlugin"],
               [{"GetDevicePluginOptions": lambda m: OPTIONS, "ListAndWatch": list_and_watch, "Allocate": allocate,
                 "GetPreferredAllocation": preferred, "PreStartContainer": pre_start}])


def register():
    with grpc.insecure_channel("unix:" + FOLDER + "/kubelet.sock") as channel:
        channel.unary_unary("/v1beta1.Registration/Register")(
            put(1, "v1beta1") + put(2, "test.sock") + put(3, RESOURCE) + put(4, OPTIONS), timeout=10)
    log("Register")


def watch_kubelet():
    """A restarted kubelet has a new socket: register again."""
    last = None
    while True:
        try:
            now = os.stat(FOLDER + "/kubelet.sock")
            if last != (now.st_ino, now.st_ctime_ns):
                register()
                last = (now.st_ino, now.st_ctime_ns)
        except (OSError, grpc.RpcError):
            pass
        changed_for_test.wait(0.3)


changed_for_test = threading.Event()
threading.Thread(target=watch_kubelet, daemon=True).start()
while True:
    if signal.sigwait([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]) != signal.SIGUSR1:
        break
    sick.add(COUNT - 1)
    changed.set()
os._exit(0)
