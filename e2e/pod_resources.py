#!/usr/bin/python3
"""Asks the kubelet's PodResources API: pod_resources.py SOCKET list | allocatable | get NAMESPACE NAME. Prints JSON: of list and
get the containers by "namespace/pod/container", each with its devices, CPUs, memory and claims. (By Debian's Python, which has grpc.)"""
import json
import sys

import grpc
from grpc_server import fields, put


def number_list(values):
    """Packed numbers, or single ones."""
    out = []
    for v in values:
        if isinstance(v, int):
            out.append(v)
            continue
        n = shift = 0
        for byte in v:
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                out.append(n)
                n = shift = 0
    return out


def nodes(message):
    return [number_list(fields(n).get(1, [0]))[0] for t in message for n in fields(t).get(1, [])]


def devices(items):
    return [{"resource": f[1][0].decode(), "ids": [i.decode() for i in f.get(2, [])], "nodes": nodes(f.get(3, []))} for f in map(fields, items)]


def memory(items):
    return [{"type": f[1][0].decode(), "size": f.get(2, [0])[0], "nodes": nodes(f.get(3, []))} for f in map(fields, items)]


def claims(items):
    """What claims give, for containers that have any."""
    out = [{"claim": f[2][0].decode(), "devices": [{"driver": d[2][0].decode(), "device": d[4][0].decode(),
                                                    "cdi": [fields(c)[1][0].decode() for c in d.get(1, [])]}
                                                   for d in map(fields, f.get(4, []))]} for f in map(fields, items)]
    return {"claims": out} if out else {}


def containers(pod):
    p = fields(pod)
    name = p[2][0].decode() + "/" + p[1][0].decode()
    return {f"{name}/{f[1][0].decode()}": {"devices": devices(f.get(2, [])), "cpus": number_list(f.get(3, [])), "memory": memory(f.get(4, [])),
                                          **claims(f.get(5, []))}
            for f in map(fields, p.get(3, []))}


socket, what, *args = sys.argv[1:]
method, request = {"list": ("List", b""), "allocatable": ("GetAllocatableResources", b""),
                   "get": ("Get", put(1, args[1]) + put(2, args[0]) if args else b"")}[what]
with grpc.insecure_channel("unix://" + socket) as channel:
    try:
        answer = fields(channel.unary_unary("/v1.PodResourcesLister/" + method)(request, timeout=20))
    except grpc.RpcError as e:
        print(json.dumps({"error": e.details(), "code": e.code().name}))
        sys.exit(1)
if what == "allocatable":
    print(json.dumps({"devices": devices(answer.get(1, [])), "cpus": number_list(answer.get(2, [])), "memory": memory(answer.get(3, []))}))
else:
    print(json.dumps({k: v for pod in answer.get(1, []) for k, v in containers(pod).items()}))
