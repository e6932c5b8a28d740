"""Addresses of services: HOST:PORT and unix:PATH. Pure."""

from __future__ import annotations

MAX_PORT = 65_535


def is_host_port(text: str, least_port: int = 0) -> bool:
    """Whether it is HOST:PORT; port 0 is for listening, where it stands for any free one."""
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdecimal() and least_port <= int(port) <= MAX_PORT


def is_reachable(text: str) -> bool:
    """Whether a service can be called there, as far as the words go: HOST:PORT with a port above 0, or unix:PATH."""
    unix = text.startswith("unix:")
    return len(text) > len("unix:") if unix else is_host_port(text, least_port=1)
