"""Who may ask a server: keys, the names by which it may be called, and where it listens."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobile_runtime.errors import InputError
from mobile_runtime.serve.api_error import ApiError

_SHORTEST_KEY = 16
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Access:
    """Digests of the keys that may ask, or none for everybody who reaches the server; and the names
    of hosts that a request without a key may be addressed to, or none for all.

    A page of another site that a browser shows cannot know a key. Without keys, what it may do is
    limited by these names: they stop it from reaching the server by a name of its own.
    """

    keys: tuple[bytes, ...]
    hosts: tuple[str, ...]

    def client(self, authorization: str | None, host: str | None, address: str) -> str:
        """Who asks, from the request's headers and address: one key is one client, and without
        keys one address is. Raises `ApiError`."""
        if not self.keys:
            if self.hosts and _without_port(host or "") not in self.hosts:
                raise ApiError(
                    403,
                    f"This server is not called {(host or '')[:80]!r}; address it as "
                    f"{self.hosts[0]}.",
                )
            return address
        scheme, _, given = (authorization or "").partition(" ")
        digest = _digest(given.strip())
        known = [hmac.compare_digest(digest, key) for key in self.keys]
        if scheme.lower() != "bearer" or True not in known:
            raise ApiError(
                401,
                "The key is missing or wrong; send the header Authorization: Bearer KEY.",
                code="invalid_api_key",
            )
        return f"key {known.index(True)}"


def access_for(host: str, keys: Sequence[str]) -> Access:
    """Who may ask a server that listens at `host`."""
    names = () if keys else tuple(dict.fromkeys((host.lower(), *_LOOPBACK_NAMES)))
    return Access(tuple(map(_digest, keys)), names)


def read_keys(path: Path) -> list[str]:
    """The keys of a file, one per line; lines that are empty or begin with # do not count. Raises
    `InputError`."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a text file of keys.") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    short = [key for key in keys if len(key) < _SHORTEST_KEY or not key.isascii() or " " in key]
    if short or not keys:
        raise InputError(
            f"{path} has {len(keys)} keys, {len(short)} of them unfit; give one or more, each on a "
            f"line of its own, of {_SHORTEST_KEY} or more letters of ASCII without spaces."
        )
    return keys


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens at `host`. Raises `InputError` for a
    name that leads nowhere."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"the host {host!r} leads nowhere ({error}); give an address of this machine."
        ) from error
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one. Raises `InputError`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"port {port} of {host} cannot be used ({error}); give another --port or --host."
        ) from error


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()
