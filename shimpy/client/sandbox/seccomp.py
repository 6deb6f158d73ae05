"""The system calls that a sandbox may make: a list of those that programs need, and no others (seccomp(2)).

What is not named fails with EPERM, as with docker's profile, which this list is stricter than: no
ptrace, no io_uring, no new namespaces, and no sockets but those of the usual families, on the 32-bit ABI too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

from shimpy.errors import InvalidArgumentError

# By what they are about. Those of the 32-bit ABIs stand with their likes.
_FILES: Final = """
    access faccessat faccessat2 open openat openat2 creat close close_range read write readv writev pread64
    pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek dup dup2 dup3 fcntl fcntl64 ioctl flock
    stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs fstatfs64
    oldstat oldlstat oldfstat
    getdents getdents64 readdir getcwd chdir fchdir mkdir mkdirat rmdir rename renameat renameat2 link linkat
    unlink unlinkat symlink symlinkat readlink readlinkat mknod mknodat
    chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32 umask
    utime utimes utimensat utimensat_time64 futimesat
    truncate truncate64 ftruncate ftruncate64 fallocate
    fsync fdatasync sync syncfs sync_file_range sync_file_range2 arm_sync_file_range
    fadvise64 fadvise64_64 arm_fadvise64_64 readahead cachestat
    getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr setxattr lsetxattr fsetxattr
    removexattr lremovexattr fremovexattr
    sendfile sendfile64 copy_file_range splice tee vmsplice pipe pipe2
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
    io_setup io_submit io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64
"""
_WAITING: Final = """
    poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
    eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_gettime timerfd_gettime64
    timerfd_settime timerfd_settime64
"""
_MEMORY: Final = """
    brk mmap mmap2 munmap mremap mprotect madvise process_madvise msync mincore mlock mlock2 munlock
    mlockall munlockall remap_file_pages memfd_create memfd_secret membarrier mseal map_shadow_stack
    pkey_alloc pkey_free pkey_mprotect cacheflush
    shmget shmat shmdt shmctl semget semop semtimedop semtimedop_time64 semctl msgget msgsnd msgrcv msgctl ipc
    mq_open mq_unlink mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64
    mq_notify mq_getsetattr
"""
_PROCESSES: Final = """
    fork vfork execve execveat exit exit_group wait4 waitid waitpid
    getpid getppid gettid getpgid getpgrp setpgid getsid setsid
    getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32
    getresgid getresgid32 getgroups getgroups32
    setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid setresuid32
    setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32
    capget capset prctl arch_prctl set_tid_address set_robust_list get_robust_list set_thread_area
    get_thread_area set_tls get_tls rseq futex futex_time64 futex_waitv futex_wake futex_wait futex_requeue
    seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
    getrlimit ugetrlimit setrlimit prlimit64 getrusage times sysinfo uname getcpu getrandom
    getpriority setpriority nice ioprio_get ioprio_set
    sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_setparam sched_getscheduler
    sched_setscheduler sched_getattr sched_setattr sched_get_priority_max sched_get_priority_min
    sched_rr_get_interval sched_rr_get_interval_time64
    pidfd_open pidfd_send_signal process_mrelease restart_syscall breakpoint usr26 usr32
"""
_SIGNALS: Final = """
    kill tkill tgkill pause alarm signal sigaction sigprocmask sigpending sigsuspend sigreturn sigaltstack
    rt_sigaction rt_sigprocmask rt_sigpending rt_sigsuspend rt_sigreturn rt_sigqueueinfo rt_tgsigqueueinfo
    rt_sigtimedwait rt_sigtimedwait_time64
"""
_TIME: Final = """
    time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64
    nanosleep clock_nanosleep clock_nanosleep_time64 getitimer setitimer
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
"""
_SOCKETS: Final = """
    bind connect listen accept accept4 shutdown getsockname getpeername getsockopt setsockopt
    send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64
"""

_ALLOWED: Final = sorted(
    {name for group in (_FILES, _WAITING, _MEMORY, _PROCESSES, _SIGNALS, _TIME, _SOCKETS)
     for name in group.split()}
)  # fmt: skip

# What a capability would be given for in vain if its calls were refused (capabilities(7)).
_OF_CAPABILITIES: Final = {
    "CAP_SYS_ADMIN": """
        mount umount umount2 pivot_root unshare setns open_tree move_mount fsopen fsconfig fsmount fspick
        mount_setattr sethostname setdomainname quotactl quotactl_fd bpf perf_event_open fanotify_init
        fanotify_mark syslog
    """,
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_PTRACE": "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64 clock_adjtime clock_adjtime64 adjtimex",
    "CAP_SYS_NICE": "mbind set_mempolicy get_mempolicy migrate_pages move_pages",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at name_to_handle_at",
}

_AF_UNIX: Final = 1
_AF_INET: Final = 2
_AF_INET6: Final = 10
_AF_NETLINK: Final = 16
_NETLINK_ROUTE: Final = 0

# clone(2): CLONE_NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWNS.
_NEW_NAMESPACES: Final = 0x7E020000

# personality(2): the usual one, UNAME26, that of 32-bit programs, both, and "tell me".
_PERSONALITIES: Final = (0, 0x20000, 0x8, 0x20008, 0xFFFFFFFF)

_INT: Final = 0xFFFFFFFF
_ENOSYS: Final = 38
_EPERM: Final = 1

_ARCHITECTURES: Final = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}


def profile(capabilities: Iterable[str] = (), machine: str | None = None) -> dict[str, Any]:
    """Returns the filter as the runtime-spec has it (config-linux.md, seccomp).

    The x32 ABI, which is in no list, is killed by the runtimes' libseccomp.

    Args:
        capabilities: that a container is given: what they are for is allowed too.
        machine: as uname(2) says; None: this one.

    Raises:
        InvalidArgumentError: there is no list for such a machine.
    """
    machine = os.uname().machine if machine is None else machine
    architectures = _ARCHITECTURES.get(machine)
    if architectures is None:
        raise InvalidArgumentError(
            f"seccomp: there is no filter for {machine}; give one of your own, or seccomp=False"
        )
    given = set(capabilities)
    more = {
        name
        for capability, names in _OF_CAPABILITIES.items()
        if capability in given
        for name in names.split()
    }
    rules: list[dict[str, Any]] = [_rule(_ALLOWED), *_conditional(raw="CAP_NET_RAW" in given)]
    if "CAP_SYS_ADMIN" in given:
        rules.append(_rule(["clone"]))
    else:
        rules.append(_rule(["clone"], _flags_clear(0, _NEW_NAMESPACES)))
    # Its flags lie in memory, where no filter sees them. The C library then takes clone instead.
    rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    if more:
        rules.append(_rule(sorted(more)))
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "architectures": list(architectures),
        "syscalls": rules,
    }


def _conditional(*, raw: bool) -> list[dict[str, Any]]:
    """Returns the rules that look at arguments.

    socketcall(2) of the 32-bit ABIs is not among them: its arguments lie in memory. Programs that know no
    other way to a socket have none.
    """
    rules = [_rule(["personality"], _equal(0, value)) for value in _PERSONALITIES]
    if raw:  # packet sockets have a family of their own
        rules.append(_rule(["socket"]))
    else:
        rules += [_rule(["socket"], _equal(0, family)) for family in (_AF_UNIX, _AF_INET, _AF_INET6)]
        # What getifaddrs(3) asks. The others, such as netfilter's, are for those who configure a kernel.
        rules.append(_rule(["socket"], _equal(0, _AF_NETLINK), _equal(2, _NETLINK_ROUTE)))
    rules.append(_rule(["socketpair"], _equal(0, _AF_UNIX)))
    return rules


def _rule(names: list[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    return {**rule, "args": list(arguments)} if arguments else rule


def _equal(index: int, value: int) -> dict[str, Any]:
    """Compares an argument that the kernel takes as an int: what is in the upper half is chance."""
    return {"index": index, "value": _INT, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _flags_clear(index: int, flags: int) -> dict[str, Any]:
    return {"index": index, "value": flags, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
