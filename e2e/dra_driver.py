#!/usr/bin/python3
"""A driver of dynamic resources for the tests, on Debian's python3-grpcio: dra_driver.py NAME NODE FOLDER KUBELET COUNT [v1beta1]

It offers devices dev-0, dev-1, ... (with the attributes index and side, and a capacity) in a ResourceSlice that it publishes
with kubectl and puts back when it is gone, prepares claims by writing a CDI file for each, and writes each call as a line of
JSON to FOLDER/calls. While FOLDER/fail exists, preparing fails with what it says; FOLDER/taint holds the effect of a taint on
dev-0."""
import json
import os
import signal
import subprocess
import sys
import threading

from grpc_server import fields, put, serve, text

NAME, NODE, FOLDER, KUBELET, COUNT = sys.argv[1:6]
VERSION = (sys.argv + ["v1"])[6]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
CDI = "/var/run/cdi"
os.makedirs(FOLDER, exist_ok=True)
os.makedirs(CDI, exist_ok=True)
lock = threading.Lock()


def log(method, **what):
    with lock, open(FOLDER + "/calls", "a") as f:
        f.write(json.dumps({"method": method, **what}) + "\n")


def kubectl(*argv, text_in=None):
    return subprocess.run(["kubectl", *argv], input=text_in, check=True, text=True, capture_output=True).stdout


def cdi_file(uid):
    return "%s/%s-%s.json" % (CDI, NAME, uid)


def describe(uid, devices):
    """Writes what containers with these devices get."""
    out = []
    for d in devices:
        env = ["DEVICE_%s=%s" % (d["request"].replace("-", "_").replace("/", "_"), d["device"])]
        out.append({"name": "%s-%s" % (uid, d["device"]), "containerEdits": {
            "env": env, "deviceNodes": [{"path": "/dev/" + d["device"], "hostPath": "/dev/zero"}],
            "mounts": [{"hostPath": FOLDER, "containerPath": "/driver", "options": ["ro", "bind"]}]}})
    spec = {"cdiVersion": "0.6.0", "kind": NAME + "/test", "devices": out}
    with open(cdi_file(uid) + ".tmp", "w") as f:
        json.dump(spec, f)
    os.rename(cdi_file(uid) + ".tmp", cdi_file(uid))


def prepare_one(claim):
    ns, uid, name = text(claim, 1), text(claim, 2), text(claim, 3)
    log("Prepare", claim=name, uid=uid)
    if os.path.exists(FOLDER + "/fail"):
        return uid, put(2, open(FOLDER + "/fail").read().strip())
    status = json.loads(kubectl("get", "resourceclaim", "-n", ns, name, "-o", "json"))["status"]
    mine = [d for d in status["allocation"]["devices"]["results"] if d["driver"] == NAME]
    describe(uid, mine)
    return uid, b"".join(put(1, put(1, d["request"]) + put(2, d["pool"]) + put(3, d["device"]) +
                                put(4, "%s/test=%s-%s" % (NAME, uid, d["device"]))) for d in mine)


def unprepare_one(claim):
    uid = text(claim, 2)
    log("Unprepare", claim=text(claim, 3), uid=uid)
    if os.path.exists(cdi_file(uid)):
        os.unlink(cdi_file(uid))
    return uid, b""


def answer(one):
    def call(m):
        results = [one(fields(c)) for c in m.get(1, [])]
        return b"".join(put(1, put(1, uid) + put(2, body)) for uid, body in results)
    return call


def device(i):
    d = {"name": "dev-%d" % i, "attributes": {"index": {"int": i}, "side": {"string": "left" if i % 2 == 0 else "right"}},
         "capacity": {"memory": {"value": "%dGi" % (i + 1)}}}
    if i == 0 and os.path.exists(FOLDER + "/taint"):
        d["taints"] = [{"key": NAME + "/broken", "effect": open(FOLDER + "/taint").read().strip()}]
    return d


def publish():
    """Keeps the slice as it should be, a newer generation for every change."""
    generation, last = 1, None
    while True:
        devices = [device(i) for i in range(int(COUNT))]
        generation += last not in (None, devices)
        last = devices
        spec = {"driver": NAME, "nodeName": NODE, "devices": devices,
                "pool": {"name": NODE, "generation": generation, "resourceSliceCount": 1}}
        slice_ = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": NODE + "-" + NAME},
                  "spec": spec}
        try:
            kubectl("apply", "-f", "-", text_in=json.dumps(slice_))
        except subprocess.CalledProcessError:
            pass
        ended.wait(1)


def notify(m):
    log("NotifyRegistrationStatus", registered=bool(m.get(1, [0])[-1]), error=text(m, 2))
    return b""


ended = threading.Event()
os.makedirs(KUBELET + "/plugins/" + NAME, exist_ok=True)
ENDPOINT = KUBELET + "/plugins/" + NAME + "/dra.sock"
SOCKET = KUBELET + "/plugins_registry/" + NAME + "-reg.sock"
running = [serve(ENDPOINT, ["k8s.io.kubelet.pkg.apis.dra.%s.DRAPlugin" % VERSION],
                 [{"NodePrepareResources": answer(prepare_one), "NodeUnprepareResources": answer(unprepare_one)}]),
           serve(SOCKET, ["pluginregistration.Registration"],
                 [{"GetInfo": lambda m: put(1, "DRAPlugin") + put(2, NAME) + put(3, ENDPOINT) + put(4, VERSION + ".DRAPlugin"),
                   "NotifyRegistrationStatus": notify}])]
threading.Thread(target=publish, daemon=True).start()
signal.sigwait([signal.SIGTERM, signal.SIGINT])
ended.set()
for s in running:
    s.stop(0)
os.unlink(SOCKET)
