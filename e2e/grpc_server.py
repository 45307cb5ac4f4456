"""gRPC servers for the tests, on Debian's python3-grpcio. Messages are coded by hand: a field is its number and wire type,
which is all that is needed here. A method is a function from the fields of the request to the bytes of the answer; a generator
streams."""
import concurrent.futures
import inspect
import os

import grpc


def varint(n):
    out = b""
    while True:
        out += bytes([n & 127 | (128 if n > 127 else 0)])
        n >>= 7
        if not n:
            return out


def put(number, value):
    """A string, message or number as a field."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(data):
    """{number: [value, ...]}; values of length-delimited fields are bytes."""
    out, at = {}, 0

    def number():
        nonlocal at
        n = shift = 0
        while True:
            b = data[at]
            at += 1
            n |= (b & 127) << shift
            shift += 7
            if b < 128:
                return n
    while at < len(data):
        key = number()
        if key & 7 == 0:
            value = number()
        else:
            size = number()
            value = data[at:at + size]
            at += size
        out.setdefault(key >> 3, []).append(value)
    return out


def text(message, number):
    return message.get(number, [b""])[-1].decode()


def mapping(message, number):
    pairs = [fields(x) for x in message.get(number, [])]
    return {text(p, 1): text(p, 2) for p in pairs}


def serve(path, service, methods, threads=8):
    """Serves the methods {name: function} of each service on a unix socket."""
    if os.path.exists(path):
        os.unlink(path)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(threads))

    def handler(fn):
        def call(request, context):
            try:
                return fn(request)
            except Exception as e:  # the caller gets to know why
                context.abort(grpc.StatusCode.INTERNAL, str(e))
        if inspect.isgeneratorfunction(fn):
            return grpc.unary_stream_rpc_method_handler(lambda request, context: fn(request), request_deserializer=fields)
        return grpc.unary_unary_rpc_method_handler(call, request_deserializer=fields)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(s, {n: handler(f) for n, f in ms.items()})
                                     for s, ms in zip(service, methods)])
    server.add_insecure_port("unix:" + path)
    server.start()
    return server
