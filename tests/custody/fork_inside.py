"""Makes another process fork, as root can by ptrace(2), and holds the child still: `python fork_inside.py PID`.

Prints the child's process id; when its own stdin ends it kills the child and lets the process go on as if nothing had
been. For x86-64. (gdb 13 ends in an assertion of its own when told to do this.)
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

ATTACH, DETACH, SINGLESTEP, GETREGS, SETREGS, SETOPTIONS, GETEVENTMSG = 16, 17, 9, 12, 13, 0x4200, 0x4201
TRACEFORK, SYS_FORK = 2, 57
RAX, RIP, ORIG_RAX, RSP = 10, 16, 15, 19  # places in user_regs_struct, <sys/user.h>
ARGUMENTS = (14, 13, 12, 7, 9, 8)  # rdi, rsi, rdx, r10, r8, r9
Registers = ctypes.c_ulonglong * 27
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, data=None) -> None:
    if _libc.ptrace(request, pid, None, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace request {request}: {os.strerror(number)}")


def syscall_instruction(pid: int) -> int:
    """Address of a `syscall` in the process's text."""
    with open(f"/proc/{pid}/maps") as lines, open(f"/proc/{pid}/mem", "rb", 0) as memory:  # noqa: PTH123
        for line in lines:
            span, rights, *_ = line.split()
            if "x" in rights and "libc" in line:
                start, end = (int(x, 16) for x in span.split("-"))
                memory.seek(start)
                at = memory.read(end - start).find(b"\x0f\x05")
                if at >= 0:
                    return start + at
    raise RuntimeError("no syscall instruction found")


class Inside:
    """Another process's main thread, held still, doing system calls for us: what an attacker inside it could do."""

    def __init__(self, pid: int) -> None:
        self.pid, self._there = pid, syscall_instruction(pid)

    def __enter__(self):
        ptrace(ATTACH, self.pid)
        os.waitpid(self.pid, 0)
        self._kept = Registers()
        ptrace(GETREGS, self.pid, ctypes.byref(self._kept))
        return self

    def __exit__(self, *_: object) -> None:
        ptrace(SETREGS, self.pid, ctypes.byref(self._kept))
        ptrace(DETACH, self.pid)

    def call(self, number: int, *arguments: int | bytes) -> int:
        """One system call; bytes are put on its stack. Returns what the kernel answers, -errno for an error."""
        at = self._kept[RSP] - 4096
        values = []
        with open(f"/proc/{self.pid}/mem", "r+b", 0) as memory:  # noqa: PTH123
            for one in arguments:
                if isinstance(one, bytes):
                    at -= len(one) + 15 & ~15
                    memory.seek(at)
                    memory.write(one)
                    values.append(at)
                else:
                    values.append(one & 2**64 - 1)
        ours = Registers(*self._kept)
        ours[RAX], ours[RIP], ours[ORIG_RAX] = number, self._there, 2**64 - 1
        for place, value in zip(ARGUMENTS, values, strict=False):
            ours[place] = value
        ptrace(SETREGS, self.pid, ctypes.byref(ours))
        ptrace(SINGLESTEP, self.pid)
        os.waitpid(self.pid, 0)
        ptrace(GETREGS, self.pid, ctypes.byref(ours))
        return ctypes.c_longlong(ours[RAX]).value


def main(pid: int) -> None:
    there = syscall_instruction(pid)
    ptrace(ATTACH, pid)
    os.waitpid(pid, 0)
    kept = Registers()
    ptrace(GETREGS, pid, ctypes.byref(kept))
    ptrace(SETOPTIONS, pid, TRACEFORK)
    ours = Registers(*kept)
    ours[RAX], ours[RIP], ours[ORIG_RAX] = SYS_FORK, there, 2**64 - 1
    ptrace(SETREGS, pid, ctypes.byref(ours))
    ptrace(SINGLESTEP, pid)
    os.waitpid(pid, 0)
    child = ctypes.c_ulong()
    ptrace(GETEVENTMSG, pid, ctypes.byref(child))
    os.waitpid(child.value, 0)
    print(child.value, flush=True)
    sys.stdin.read()
    os.kill(child.value, signal.SIGKILL)
    os.waitpid(child.value, 0)
    ptrace(SINGLESTEP, pid)
    os.waitpid(pid, 0)
    ptrace(SETREGS, pid, ctypes.byref(kept))
    ptrace(DETACH, pid)


if __name__ == "__main__":
    main(int(sys.argv[1]))
