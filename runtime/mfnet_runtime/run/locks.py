"""Locks that end with the process that holds them, however it ends. POSIX `flock`.

Where a system has none (Windows), nobody is locked out.
"""

from __future__ import annotations

import sys


def locked(handle: int, *, shared: bool = False) -> bool:
    """Lock an open file until it is closed, unless another process holds a lock that excludes it.

    Args:
        handle: File descriptor.
        shared: Together with others that share it.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def waited_for(handle: int) -> None:
    """Lock an open file until it is closed, as soon as no other process holds it."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)
