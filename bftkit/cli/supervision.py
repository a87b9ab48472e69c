"""What a supervisor is told: that a member serves, and that it is about to end.

systemd starts a service of ``Type=notify`` with the path of a datagram socket in ``NOTIFY_SOCKET``, and waits for
``READY=1`` there (sd_notify(3)); other supervisors do the same. Without that variable nobody wants to know, and nothing
is done. A supervisor that cannot be told is no reason for a member to fail: its own log says so, and it serves.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"

logger: Final = logging.getLogger(__name__)


def notify(*assignments: str) -> bool:
    """Tell the supervisor, each assignment as ``NAME=value``; whether it could be told."""
    path = os.environ.get(VARIABLE, "")
    if not path:
        return False
    place = "\0" + path[1:] if path.startswith("@") else path  # an abstract socket has no file
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
            way.setblocking(False)  # a supervisor that does not read holds up nobody
            way.connect(place)
            way.send("\n".join(assignments).encode())
    except OSError as error:
        logger.warning("the supervisor at %s could not be told %s: %s", path, assignments[0], error)
        return False
    return True
