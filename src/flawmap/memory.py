"""Memory that is freed and taken again each step is kept instead of being handed back to the system.

glibc maps every large block anew and unmaps it when it is freed, so that each activation of a network costs page
faults, which can take longer than the arithmetic on it, above all in virtual machines. docs/speed.md has figures.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys

# Numbers of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Make the C library keep what is freed, for the life of this process; whether it does.

    Does nothing where the C library is not glibc. Resident memory then stays at its peak until the process ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018, AttributeError where it is another library
        return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    return False
