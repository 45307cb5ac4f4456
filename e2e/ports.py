"""Ports for the tests' own servers. As a program it prints one."""
import random, socket

given = set()


def free_port():
    """A port of loopback that nobody has. Below those that the kernel gives to connections: of them, one may be taken while
    its server is down, by a connection to anywhere, or by a client that tries to connect and finds itself."""
    while True:
        port = random.SystemRandom().randrange(15000, 30000)
        with socket.socket() as s:
            try: s.bind(("127.0.0.1", port))
            except OSError: continue
        if port not in given:
            given.add(port)
            return port


if __name__ == "__main__":
    print(free_port())
