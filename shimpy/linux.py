"""What Linux offers and Python's standard library does not, each system call as a function with types.

It knows nothing of shimpy, and everything in shimpy may use it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
from typing import NamedTuple

# Bytes of the path of a Unix socket: sun_path without the NUL at its end, unix(7).
LONGEST_SOCKET_ADDRESS = 107

# The signals that the interpreter ignores for itself, and gives back to the children that it starts.
IGNORED_BY_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})

# The signals that glibc keeps for its threads (nptl(7)): its own functions refuse to touch them.
SIGNALS_OF_THE_C_LIBRARY = frozenset({32, 33})

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

# The number of rt_sigaction(2), which is the only way past the C library.
_RT_SIGACTION = {"x86_64": 13, "aarch64": 134, "riscv64": 134, "ppc64le": 173, "s390x": 174}

# What the kernel makes up as it is read, and takes as an order when it is written (magic.h, statfs(2)).
_KERNEL_FILESYSTEMS = {
    0x00009FA0: "procfs",
    0x62656572: "sysfs",
    0x0027E0EB: "cgroup",
    0x63677270: "cgroup2",
    0x07655821: "resctrl",
    0x64626720: "debugfs",
    0x74726163: "tracefs",
    0x73636673: "securityfs",
    0xF97CFF8C: "selinuxfs",
    0x43415D53: "smackfs",
    0x5A3C69F0: "apparmorfs",
    0x62656570: "configfs",
    0xCAFE4A11: "bpf",
    0xDE5E81E4: "efivarfs",
    0x6165676C: "pstore",
    0x19800202: "mqueue",
    0x42494E4D: "binfmt_misc",
    0x65735543: "fusectl",
    0x6E667364: "nfsd",
    0x67596969: "rpc_pipefs",
    0x6E736673: "nsfs",
    0xABBA1974: "xenfs",
    0x00009FA1: "openpromfs",
    0x00687970: "hypfs",
}

# More bytes than any architecture's struct statfs has, whose first field is the type.
_STATFS_SIZE = 256

# The number of pidfd_getfd(2), the same on every architecture.
_PIDFD_GETFD = 438

# struct ucred: the process, its user and its group.
_CREDENTIALS = struct.Struct("iII")

_libc = ctypes.CDLL(None, use_errno=True)


# Bytes that are read of a file at a time.
_CHUNK = 16384

# Bytes; pages have 4,096 or more.
_HALF_A_PAGE = 2048


def read_file(
    path: str | bytes | os.PathLike[str],
    *,
    dir_fd: int | None = None,
    at_once: bool = False,
    short_lines: bool = False,
) -> bytes:
    """Returns what a file holds, and asks nothing else of it.

    For the small files of /proc and cgroups, of which a call reads many: it is four system calls, and a file
    object makes nine of them.

    Args:
        path: of the file.
        dir_fd: a file descriptor of the directory that a relative path begins at.
        at_once: it is one that the kernel makes as a whole (single_open in fs/seq_file.c) and not line by
            line, so that a read that is not full has met its end.
        short_lines: it is one that the kernel makes line by line, of numbers: as many as a page has room for
            come with each read (seq_read_iter in fs/seq_file.c), so that less has met its end.

    Raises:
        OSError: as open(2) and read(2) have it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    enough = _CHUNK if at_once else _HALF_A_PAGE if short_lines else 1
    try:
        text = part = os.read(fd, _CHUNK)
        while len(part) >= enough:
            part = os.read(fd, _CHUNK)
            text += part
    finally:
        os.close(fd)
    return text


def kernel_filesystem(fd: int) -> str | None:
    """Returns which of the kernel's own filesystems a file is in; None: one that keeps what it is given.

    The files of those answer to the rights of who has opened them, may wait for ever, and may lose what was
    read.

    Args:
        fd: of the file; O_PATH will do.

    Raises:
        OSError: as fstatfs(2) has it.
    """
    status = ctypes.create_string_buffer(_STATFS_SIZE)
    _checked(_libc.fstatfs(fd, status), "fstatfs")
    return _KERNEL_FILESYSTEMS.get(ctypes.c_ulong.from_buffer(status).value)


class Peer(NamedTuple):
    """Who is at the other end of a Unix socket.

    Attributes:
        pid: the process id; 0 if it is in a pid namespace that this process does not see.
        uid: its effective user id.
    """

    pid: int
    uid: int

    @property
    def is_root_or_this_user(self) -> bool:
        """Whether it may do to this process, or for it, whatever it likes anyway."""
        return self.uid in {0, os.geteuid()}


def peer(connection: socket.socket) -> Peer:
    """Returns who is at the other end of a connected Unix stream socket (SO_PEERCRED, unix(7)).

    The kernel records it when the other end calls connect(2) or listen(2); it cannot change afterwards.

    Raises:
        OSError: the kernel refused.
    """
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return Peer(pid, uid)


def take_fd(pidfd: int, number: int) -> int:
    """Returns a file descriptor, closed on exec, for what another process has open (pidfd_getfd(2)).

    Args:
        pidfd: of the process.
        number: the file descriptor there.

    Raises:
        OSError: the process or its file descriptor has gone, this process may not trace it (ptrace(2)), or
            the kernel is older than 5.6.
    """
    return _checked(_libc.syscall(_PIDFD_GETFD, pidfd, number, 0), "pidfd_getfd")


def is_child_subreaper() -> bool:
    """Returns whether the orphans among this process's descendants become its children (prctl(2)).

    Raises:
        OSError: the kernel refused.
    """
    value = ctypes.c_int()
    _checked(_libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(value), 0, 0, 0), "prctl")
    return bool(value.value)


def set_child_subreaper(value: bool) -> None:
    """Sets what `is_child_subreaper` returns.

    Raises:
        OSError: the kernel refused.
    """
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def inotify_init(flags: int) -> int:
    """Returns the file descriptor of a new inotify instance (inotify_init1(2)).

    Args:
        flags: O_NONBLOCK and O_CLOEXEC.

    Raises:
        OSError: no file descriptor or instance is left.
    """
    return _checked(_libc.inotify_init1(flags), "inotify_init1")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watches a file and returns the watch (inotify_add_watch(2)).

    Args:
        fd: the file descriptor of an inotify instance.
        path: of the file.
        mask: the events to be told of.

    Raises:
        OSError: no watch is left, or the file cannot be watched.
    """
    return _checked(
        _libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask)), "inotify_add_watch"
    )


def inotify_rm_watch(fd: int, watch: int) -> None:
    """Ends a watch (inotify_rm_watch(2)); one that has ended, with its file, is ended already."""
    _libc.inotify_rm_watch(fd, watch)


def detach(path: str) -> None:
    """Unmounts what is mounted at a path, busy or not, and follows no symbolic link (umount2(2)).

    Raises:
        OSError: nothing is mounted there, or the kernel refused.
    """
    _checked(_libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW), "umount2")


def reset_signal(number: int) -> None:
    """Sets a signal to its default, also one of the C library's (rt_sigaction(2)).

    On a machine whose system calls are not known here it does nothing.

    Raises:
        OSError: the kernel refused.
    """
    call = _RT_SIGACTION.get(os.uname().machine)
    if call is not None:
        default = ctypes.create_string_buffer(32)  # the kernel's struct sigaction: SIG_DFL is 0
        _checked(_libc.syscall(call, number, default, None, ctypes.c_size_t(8)), "rt_sigaction")


def _checked(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result
