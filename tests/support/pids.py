"""Pids that are given out to whom one wants, in a pid namespace of one's own."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import time

# The pid that was given out last, in this pid namespace; the next one is the next that is free (pid(5)).
LAST = "/proc/sys/kernel/ns_last_pid"

# What to put before a command for it to have a pid namespace, and a first process there that reaps.
INSIDE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", '"$@"; exit "$?"', "sh"]


@functools.cache
def lacking() -> str:
    """Returns what this machine lacks for choosing pids, in words; empty if nothing."""
    probe = [*INSIDE, "sh", "-c", f"echo 4999 >{LAST}; sh -c 'echo $$'; exit 0"]
    done = subprocess.run(probe, check=False, capture_output=True, text=True)
    return "" if done.stdout == "5000\n" else f"a writable {LAST} in a new pid namespace: {done.stderr}"


def next_pid(pid: int) -> None:
    """Has the next process or thread of this namespace get this pid, or the next that is free."""
    with open(LAST, "w", encoding="ascii") as file:
        file.write(str(pid - 1))


def take(pid: int, *, status: int | None = None) -> None:
    """Forks a process of that pid, which leads a group, and which no signal ends but SIGKILL.

    Args:
        pid: one that is free.
        status: what it ends with at once, if it does.
    """
    for _ in range(100):
        next_pid(pid)
        # What is sent to it is to be seen as pending; it has the mask from its first moment on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.closerange(0, 4096)
            while status is None:
                time.sleep(1000)
            os._exit(status)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if child == pid:
            if status is not None:
                os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
            return
        # Some thread was quicker.
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    raise AssertionError(f"process {pid} is not to be had")


def untouched(pid: int) -> bool:
    """Returns whether a process that `take` has made lives and was never sent a signal."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            status = {name: text.split() for name, _, text in (line.partition(":") for line in file)}
    except FileNotFoundError:
        return False
    pending = int(status["SigPnd"][0], 16) | int(status["ShdPnd"][0], 16)
    return status["State"][0] in "RS" and pending == 0


class Stranger:
    """A child whose own children, of pids that are asked for, are nobody's here."""

    def __init__(self) -> None:
        asked, self._ask = os.pipe()
        self._told, tell = os.pipe()
        if os.fork() == 0:
            os.close(self._ask)
            while data := os.read(asked, 20):
                take(int(data))
                os.write(tell, data)
            os._exit(0)
        os.close(asked)
        os.close(tell)

    def take(self, pid: int) -> None:
        """Does what the function of this name does, there."""
        os.write(self._ask, str(pid).encode())
        assert os.read(self._told, 20) == str(pid).encode()
