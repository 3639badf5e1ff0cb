"""Ports for servers that cannot be told to choose one themselves."""

import random
import socket

PORTS = range(20_000, 32_000)
"""Below those that Linux gives to connections (32768 and up) and above those of Ray's workers, so
that no neighbour takes one before its server listens."""


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port of an address on which nobody listens, drawn at random."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as knock:
            try:
                knock.bind((address, port))
            except OSError:
                continue
            return port
    raise AssertionError(f"none of 100 ports of {address} was free")
