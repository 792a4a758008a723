"""Ties a command to the life of the process that started it, then becomes the command (exec).

Comes in: `leash.py PARENT_PID SIGNAL UID:GID|- COMMAND ARG…`. Goes out: COMMAND under the same process id, which the kernel
sends SIGNAL when its parent dies, even by kill -9. Run by path by `daemon.Daemon`, with `-I -S` (start-up of 15 ms), so it
imports the standard library only.

UID:GID is for Postgres, which refuses to run as root: the command gets that identity and keeps one right of root's
(CAP_DAC_OVERRIDE), so that it reaches its programs and its data below directories that only root may enter.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def become(uid: int, gid: int) -> None:
    """Give up root for `uid`:`gid`, keeping CAP_DAC_OVERRIDE across exec. Raises OSError."""
    _call("prctl(PR_SET_KEEPCAPS)", _libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    bit = 1 << CAP_DAC_OVERRIDE
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable; then their upper halves
    _call("capset", _libc.capset(header, sets))
    _call("prctl(PR_CAP_AMBIENT)", _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0))


def main(argv: list[str]) -> None:
    parent, signum, owner, command = int(argv[1]), int(argv[2]), argv[3], argv[4:]
    if owner != "-":
        uid, gid = owner.split(":")
        become(int(uid), int(gid))
    # After the change of identity, because that clears it.
    _call("prctl(PR_SET_PDEATHSIG)", _libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0))
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv)
