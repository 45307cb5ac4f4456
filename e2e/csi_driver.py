#!/usr/bin/python3
"""A small CSI driver for the tests, on Debian's python3-grpcio: csi_driver.py NAME FOLDER REGISTRY [--no-stage]

It keeps volumes as folders below FOLDER/volumes (or image files behind loop devices for block volumes), serves the CSI Node
service on FOLDER/csi.sock, registers through a socket in the kubelet's REGISTRY folder, and writes each call as a line of
JSON to FOLDER/calls."""
import json
import os
import signal
import subprocess
import sys

from grpc_server import fields, mapping, put, serve, text

NAME, FOLDER, REGISTRY = sys.argv[1:4]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
STAGE = "--no-stage" not in sys.argv
os.makedirs(FOLDER + "/volumes", exist_ok=True)


def log(method, **what):
    with open(FOLDER + "/calls", "a") as f:
        f.write(json.dumps({"method": method, **what}) + "\n")


def run(*argv):
    subprocess.run(argv, check=True)


def mounted(path):
    return any(line.split()[4] == path for line in open("/proc/self/mountinfo"))


def unmount(path):
    while mounted(path):
        run("umount", path)
    if os.path.isdir(path):
        os.rmdir(path)
    elif os.path.exists(path):
        os.unlink(path)


def get_info(m):
    return b""


def node_info(m):
    log("NodeGetInfo")
    zone = put(1, "topology." + NAME + "/zone") + put(2, "z1")
    return put(1, "id-" + NAME) + put(2, 7) + put(3, put(1, zone))


def capabilities(m):
    return b"".join(put(1, put(1, put(1, n))) for n in ([1] if STAGE else []) + [2, 3])


def is_block(capability):
    return 1 in fields(capability)


def stage(m):
    volume, path, cap = text(m, 1), text(m, 3), m[4][-1]
    log("NodeStageVolume", volume=volume, path=path, context=mapping(m, 2), secrets=mapping(m, 5), attributes=mapping(m, 6),
        block=is_block(cap), mode=fields(fields(cap)[3][-1])[1][-1],
        flags=[x.decode() for x in fields(fields(cap).get(2, [b""])[-1]).get(2, [])], fs=text(fields(fields(cap).get(2, [b""])[-1]), 1))
    if not is_block(cap):
        os.makedirs(FOLDER + "/volumes/" + volume, exist_ok=True)
        if not mounted(path):
            run("mount", "--bind", FOLDER + "/volumes/" + volume, path)
    return b""


def unstage(m):
    log("NodeUnstageVolume", volume=text(m, 1), path=text(m, 2))
    while mounted(text(m, 2)):
        run("umount", text(m, 2))
    return b""


def publish(m):
    volume, staging, target, cap = text(m, 1), text(m, 3), text(m, 4), m[5][-1]
    readonly = bool(m.get(6, [0])[-1])
    log("NodePublishVolume", volume=volume, staging=staging, target=target, readonly=readonly, secrets=mapping(m, 7),
        attributes=mapping(m, 8), context=mapping(m, 2), block=is_block(cap))
    if mounted(target):
        return b""
    if is_block(cap):
        image = FOLDER + "/volumes/" + volume + ".img"
        with open(image, "a") as f:
            f.truncate(1 << 20)
        device = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True).stdout.strip()
        open(target, "a").close()
        run("mount", "--bind", device, target)
        return b""
    if not staging:
        staging = FOLDER + "/volumes/" + volume
        os.makedirs(staging, exist_ok=True)
    os.makedirs(target, exist_ok=True)
    run("mount", "--bind", staging, target)
    if readonly:
        run("mount", "-o", "remount,bind,ro", target)
    return b""


def unpublish(m):
    volume, target = text(m, 1), text(m, 2)
    log("NodeUnpublishVolume", volume=volume, target=target)
    unmount(target)
    image = FOLDER + "/volumes/" + volume + ".img"
    if os.path.exists(image):
        for line in subprocess.run(["losetup", "-j", image], capture_output=True, text=True).stdout.splitlines():
            subprocess.run(["losetup", "-d", line.split(":")[0]])
    return b""


def stats(m):
    log("NodeGetVolumeStats", volume=text(m, 1))
    return put(1, put(1, 600) + put(2, 1000) + put(3, 400) + put(4, 1)) + put(1, put(1, 6) + put(2, 10) + put(3, 4) + put(4, 2))


def expand(m):
    size = fields(m[3][-1]).get(1, [0])[-1]
    log("NodeExpandVolume", volume=text(m, 1), path=text(m, 2), size=size)
    return put(1, size)


def notify(m):
    log("NotifyRegistrationStatus", registered=bool(m.get(1, [0])[-1]), error=text(m, 2))
    return b""


ENDPOINT = FOLDER + "/csi.sock"
NODE = {"NodeGetInfo": node_info, "NodeGetCapabilities": capabilities, "NodeStageVolume": stage, "NodeUnstageVolume": unstage,
        "NodePublishVolume": publish, "NodeUnpublishVolume": unpublish, "NodeGetVolumeStats": stats, "NodeExpandVolume": expand}
running = [serve(ENDPOINT, ["csi.v1.Node"], [NODE])]
SOCKET = REGISTRY + "/" + NAME + "-reg.sock"
running.append(serve(SOCKET, ["pluginregistration.Registration"],
                     [{"GetInfo": lambda m: put(1, "CSIPlugin") + put(2, NAME) + put(3, ENDPOINT) + put(4, "1.0.0"),
                       "NotifyRegistrationStatus": notify}]))
signal.sigwait([signal.SIGTERM, signal.SIGINT])
for s in running:
    s.stop(0)
os.unlink(SOCKET)
