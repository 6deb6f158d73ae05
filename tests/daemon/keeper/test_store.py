"""What a keeper holds while a shim is dead."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterator

import pytest

from shimpy.daemon.keeper.kept import KeptFds
from tests.support import leaks
from tests.support.fake_shims import Kept

Keep = Callable[..., Kept]


def test_what_is_stored_comes_back_by_its_name_and_in_order(kept: Kept) -> None:
    shim = kept.next()
    shim.do("[(store(n, (p := os.pipe())[0]), os.write(p[1], n.encode())) and 0 for n in ('a', 'b', 'a')]")
    shim.kill()

    shim = kept.next()

    assert shim.do("listened") == {"pid": str(shim.pid), "fds": "3", "names": "a:b:a"}
    assert shim.do("[os.read(fd, 9).decode() for fd in (3, 4, 5)]") == ["a", "b", "a"]


def test_a_shim_gets_nothing_else_of_the_keeper(kept: Kept) -> None:
    shim = kept.next()
    shim.do("store('x', 0)")
    shim.kill()

    assert sorted(leaks.descriptors(kept.next().pid)) == [
        0,
        1,
        2,
        3,
        4,
    ]  # 4 is its conversation with the test


def test_many_keep_their_order(kept: Kept) -> None:
    """More than there are low numbers: none may take another's place on the way."""
    shim = kept.next()
    shim.do("[(store(str(n), (p := os.pipe())[0]), os.write(p[1], b'%d' % n)) and 0 for n in range(200)]")
    shim.kill()

    shim = kept.next()

    assert shim.do("[int(os.read(3 + n, 9)) for n in range(200)]") == list(range(200))


def test_what_is_removed_is_closed(kept: Kept) -> None:
    shim = kept.next()
    reading, writing = shim.do("os.pipe()")
    shim.do(f"store('w', {writing}) or store('other', 0) or barrier() or os.close({writing})")

    shim.do("tell('FDSTOREREMOVE=1\\nFDNAME=w') or barrier()")

    assert shim.do(f"os.read({reading}, 1).decode()") == ""
    shim.kill()
    assert kept.next().do("listened")["names"] == "other"


def test_what_is_stored_again_is_there_once(kept: Kept) -> None:
    """A shim that has got something back stores all that it has, as at its first start."""
    kept.next().do("store('x', 0) or store('x', 0) or store('y', 0)")
    kept._shims[-1].kill()
    kept.next().do("store('x', 3)")
    kept._shims[-1].kill()

    assert kept.next().do("listened")["names"] == "x:y"


@pytest.mark.parametrize("name", ["", "a:b", "n" * 256, "tab\t", "ä"])
def test_a_name_that_cannot_be_one_is_stored_as_systemd_does(kept: Kept, name: str) -> None:
    kept.next().do(f"store({name!r}, 0)")
    kept._shims[-1].kill()

    assert kept.next().do("listened")["names"] == "stored"


def test_only_the_shim_itself_is_heeded(kept: Kept) -> None:
    shim = kept.next()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.connect(str(kept.directory / "notify"))
        socket.send_fds(stranger, [b"FDSTORE=1\nFDNAME=mine"], [0])
    shim.do("os.waitpid(fork(lambda: store('child', 0)), 0)[1]")
    shim.do("store('own', 0)")
    shim.kill()

    assert kept.next().do("listened")["names"] == "own"


def test_the_socket_is_the_users_alone(kept: Kept) -> None:
    kept.next()

    assert (kept.directory / "notify").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("rubbish", ["b''.decode()", "'FDSTORE=1'", "'x' * 60000", "'\\n=\\nFDSTORE'"])
def test_what_makes_no_sense_is_left_out(kept: Kept, rubbish: str) -> None:
    shim = kept.next()
    shim.do(f"tell({rubbish})")
    shim.do("store('x', 0) or barrier()")
    shim.kill()

    assert kept.next().do("listened")["names"] == "x"


def test_a_full_store_refuses_and_says_so_once(keep: Keep) -> None:
    kept = keep(files=200)
    shim = kept.next()
    shim.do("[store(str(n), 0) for n in range(60)] and barrier()")
    shim.kill()

    assert kept.next().do("listened")["fds"] == "36"
    assert kept.log.count("no room for another file descriptor") == 1


def test_a_keeper_without_file_descriptors_goes_on(keep: Keep) -> None:
    """What comes with one message more than it may have open at all is lost; what comes after is not."""
    kept = keep(files=160)
    shim = kept.next()
    shim.do("tell('FDSTORE=1\\nFDNAME=x', *[0] * 150) or store('y', 0) or barrier()")
    shim.kill()

    assert kept.next().do("listened")["names"].split(":")[-1] == "y"
    assert kept.process.poll() is None


@pytest.fixture
def null() -> Iterator[int]:
    """Something to keep, and room for more of it than there are names."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    fd = os.open(os.devnull, os.O_RDONLY)
    yield fd
    os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_names_fit_into_the_environment(null: int) -> None:
    store = KeptFds(track=False)
    before = leaks.descriptors()

    taken = [store.add(f"{n:0255d}", os.dup(null)) for n in range(513)]

    assert taken == [True] * 511 + [False] * 2
    assert len(leaks.opened_since(before)) == 511
    os.posix_spawn("/bin/true", ["true"], {"LISTEN_FDNAMES": store.names()})
    os.wait()
    for fd in store.fds():
        os.close(fd)


def test_room_comes_back_with_what_is_removed(null: int) -> None:
    store = KeptFds(track=False)
    for n in range(511):
        store.add(f"{n:0255d}", os.dup(null))

    store.remove(f"{7:0255d}")

    assert store.add(f"{600:0255d}", os.dup(null))
    for fd in store.fds():
        os.close(fd)


def test_a_pidfd_is_known_by_its_process(null: int) -> None:
    store = KeptFds(track=True)
    store.add("other", os.dup(null))
    store.add("process", os.pidfd_open(os.getpid()))

    assert store.holds(os.getpid())
    assert not store.holds(1)
    store.remove("process")
    assert not store.holds(os.getpid())
    store.remove("other")
