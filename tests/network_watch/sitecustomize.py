"""Writes down who asks the network: imported by Python where PYTHONPATH has this folder.

The file that NETWORK_WATCH names gets a line for each process and one for each look-up or
connection; sockets of the machine itself (AF_UNIX) do not count.
"""

import os
import sys

_FILE = os.environ.get("NETWORK_WATCH", "")

#: Look-ups, and connections, whose first argument is the socket.
_LOOK_UPS = {
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "urllib.Request",
}
_CONNECTIONS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


def _write(line: str) -> None:
    handle = os.open(_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(handle, f"{line}\n".encode(errors="replace"))
    os.close(handle)


def _note(event: str, arguments: tuple) -> None:
    is_away = event in _CONNECTIONS and arguments[0].family in (2, 10)  # AF_INET, AF_INET6
    if is_away or event in _LOOK_UPS:
        _write(f"asked {event} {arguments!r}")


if _FILE:
    _write(f"watching {os.getpid()}")
    sys.addaudithook(_note)
