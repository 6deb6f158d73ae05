"""What State and Events must say of one container, given what was asked of it and answered.

It is fed with calls as they begin and end, with every event, and with what State says. While calls
overlap it is not known which came first, and of one that was cut off not even whether it happened:
the model then holds every state that there may be. Once all is quiet it knows each of them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shimpy.api import Event, EventType, State, StateResponse

NONE = "no container"
CREATED, RUNNING, PAUSED, STOPPED = "CREATED", "RUNNING", "PAUSED", "STOPPED"

KILLED = 128 + 9

# What each call makes of each state that it is allowed in.
_EFFECTS: dict[str, dict[str, tuple[str, ...]]] = {
    "create": {NONE: (CREATED,)},
    "start": {CREATED: (RUNNING,)},
    "pause": {RUNNING: (PAUSED,)},
    "resume": {PAUSED: (RUNNING,)},
    "delete init": dict.fromkeys((CREATED, RUNNING, PAUSED, STOPPED), (STOPPED, NONE)),
}
_NEEDS = {kind: {*effects} for kind, effects in _EFFECTS.items()} | {"exec": {CREATED, RUNNING}}


@dataclass(eq=False)
class Process:
    """One process that an event has named.

    Attributes:
        pid: its pid.
        exit: the status of its EXIT, once that has come.
        deletes: how many Deletes of it have been asked.
        deleted: whether one of these succeeded.
        killed: whether it was sent SIGKILL.
    """

    pid: int
    exit: int | None = None
    killed: bool = False
    deletes: int = 0
    deleted: bool = False


@dataclass(frozen=True)
class Program:
    """What an exec runs.

    Attributes:
        args: the command line.
        statuses: what it may exit with of its own accord; none if it does not.
        terminal: whether it has one.
    """

    args: tuple[str, ...]
    statuses: frozenset[int] = frozenset()
    terminal: bool = False


@dataclass(eq=False)
class Call:
    """A call from its beginning until its end, or until it is known what became of it.

    Attributes:
        kind: the name of the call; "delete init" and "delete exec" are two.
        pid: of which process.
        program: what an exec runs.
        span: every state that the container may have been in meanwhile.
        crowded: whether another call that changes the state was under way meanwhile.
        died: whether the process may have been dead before the end.
        exited: whether its EXIT had come before the beginning.
        gone: whether it may have been deleted.
        before: the processes that had exited, or were deleted, before the beginning.
        over: False while it is under way.
    """

    kind: str
    pid: int = 0
    program: Program | None = None
    span: set[str] = field(default_factory=set)
    crowded: bool = False
    died: bool = False
    exited: bool = False
    gone: bool = False
    before: dict[int, str] = field(default_factory=dict)
    over: bool = False


class Model:
    """One container, from before its Create until after its Delete.

    Args:
        differ: called with words for each difference from what must be.
        mortal: whether init ends of its own accord.
        statuses: what it then exits with.
        terminal: whether init has one.

    Attributes:
        id: its id, once CREATE has told which of those asked for it is.
        ids: what ids were asked for.
        init: its init, once there is one.
        execs: by pid, in the order of EXEC_ADDED.
        programs: what each exec runs whose Exec was answered.
        unknown: what was to be run by an Exec that was cut off.
        started: whether START has come.
        deleting: whether a Delete of init was ever asked.
        possible: the states that it may be in.
    """

    def __init__(
        self,
        differ: Callable[[str], None],
        *,
        mortal: bool = False,
        statuses: Iterable[int] = (),
        terminal: bool = False,
    ) -> None:
        self._differ = differ
        self._statuses = {*statuses}
        self._mortal = self._ending = mortal
        self._terminal = terminal
        self.id = ""
        self.ids: set[str] = set()
        self.init: Process | None = None
        self.execs: dict[int, Process] = {}
        self.programs: dict[int, Program] = {}
        self.unknown: list[Program] = []
        self.started = False
        self.deleting = False
        self.possible = {NONE}
        self._base = {NONE}
        self._group: list[Call] = []
        self._calls: set[Call] = set()

    @property
    def ending(self) -> bool:
        """Whether init may have died by now, of its own accord or killed, and everything with it."""
        return self._ending

    # Calls.

    def begin(self, kind: str, pid: int = 0, program: Program | None = None) -> Call:
        """Notes that a call is about to be made."""
        call = Call(kind, pid, program)
        process = self.find(pid)
        if process is not None:
            call.exited = process.exit is not None
            if kind.startswith("delete"):
                process.deletes += 1
        if kind == "state":
            call.before = {
                one.pid: NONE if one.deleted else STOPPED
                for one in self.execs.values()
                if one.deleted or one.exit is not None
            }
        self._calls.add(call)
        if kind == "delete init":
            self.deleting = self._ending = True
        if kind in _EFFECTS:
            if not self._group:
                self._base = set(self.possible)
            self._group.append(call)
        self._update()
        return call

    def succeeded(self, call: Call, result: int = 0) -> None:
        """Notes that a call was answered with OK.

        Args:
            call: the call.
            result: the pid or the exit status that it was answered with.
        """
        self._end(call, answered=True)
        if not call.span & _NEEDS.get(call.kind, call.span):
            self._differ(f"{call.kind} succeeded, in state {' or '.join(sorted(call.span))}")
        if call.kind in ("create", "exec") and result == 0:
            self._differ(f"{call.kind} succeeded with pid 0")
        if call.kind == "create" and self.init is not None and self.init.pid != result:
            self._differ(f"create: pid {result}, but the event of CREATE has named {self.init.pid}")
        if call.kind == "exec" and call.program is not None:
            self.programs[result] = call.program
        if call.kind == "resize" and (call.exited or not self.may_have_terminal(call.pid)):
            self._differ(f"a process without a terminal, or an exited one, was resized: {call.pid}")
        process = self.find(call.pid)
        if call.kind.startswith("delete") and process is not None:
            if process.exit not in (None, result):
                self._differ(f"delete of {call.pid}: status {result}, but its EXIT has said {process.exit}")
            process.deleted = True

    def refused(self, call: Call, status: str, message: str) -> None:
        """Notes that a call was answered with a status that is not OK and no deadline."""
        self._end(call, answered=False)
        needed = _NEEDS.get(call.kind)
        hindered = call.crowded or (needed is not None and not call.span <= needed)
        allowed = set()
        if call.kind == "create":
            if hindered:
                allowed.add("ALREADY_EXISTS")
        elif call.kind == "resize":
            if call.died or not self.has_terminal(call.pid):
                allowed.add("FAILED_PRECONDITION")
        elif needed is not None and hindered:
            allowed.add("FAILED_PRECONDITION")
        if call.pid and (call.gone or NONE in call.span):
            allowed.add("NOT_FOUND")
        if call.program is not None and not call.program.statuses and call.program.args[0].startswith("/no"):
            allowed.add("NOT_FOUND")
        if status not in allowed:
            self._differ(
                f"{call.kind} {call.pid or ''} was refused with {status} ({message}), "
                f"in state {' or '.join(sorted(call.span))}; it may be {' or '.join(sorted(allowed)) or 'OK'}"
            )

    def lost(self, call: Call) -> None:
        """Notes that a call was cut off: it has happened, or not, or is just being undone."""
        self._calls.discard(call)
        if call.kind == "exec" and call.program is not None:
            self.unknown.append(call.program)

    def _end(self, call: Call, *, answered: bool) -> None:
        process = self.find(call.pid)
        if process is not None:
            call.died = self.may_be_dead(process)
            call.gone = process.deleted or process.deletes > (1 if call.kind.startswith("delete") else 0)
        self._calls.discard(call)
        call.over = True
        if call not in self._group:
            return
        if not answered:
            self._group.remove(call)
        if answered and call.kind == "delete init":
            self._base = {NONE}
            self._group = [one for one in self._group if not one.over]
        elif all(one.over for one in self._group):
            only = self._group[0] if len(self._group) == 1 and not call.crowded else None
            if only is not None:
                # Its EXIT may have come before the answer.
                self._base = {STOPPED} & self._base | {
                    state for one in self._base for state in _EFFECTS[only.kind].get(one, ())
                }
            else:
                self._base = self._closure()
            self._group = []
        self._update()

    # Events.

    def happened(self, event: Event) -> None:
        """Notes an event."""
        kind, pid, init = event.type, event.pid, self.init
        if event.id not in self.ids or (self.id and event.id != self.id):
            self._differ(f"an event of another container: {event}")
        if kind == EventType.OOM or (kind != EventType.EXIT and event.exit_status):
            self._differ(f"an event that cannot be: {event}")
        if kind == EventType.CREATE:
            if init is not None:
                self._differ(f"a second CREATE: {event}")
            self.id = event.id
            self.init = Process(pid)
        elif init is None or init.exit is not None:
            self._differ(f"an event before CREATE, or after the EXIT of init: {event}")
        elif kind == EventType.START:
            if self.started or pid != init.pid:
                self._differ(f"a second START, or of another process: {event}")
            self.started = True
        elif kind == EventType.EXEC_ADDED:
            former = self.execs.pop(pid, None)
            # The pid of one that is dead may be given out again.
            if pid == init.pid or (former is not None and former.exit is None):
                self._differ(f"EXEC_ADDED twice: {event}")
            self.execs[pid] = Process(pid)
        elif kind == EventType.EXIT:
            self._exited(event)

    def _exited(self, event: Event) -> None:
        process = self.find(event.pid)
        if process is None or process.exit is not None:
            self._differ(f"EXIT of an unknown process, or the second of one: {event}")
            return
        process.exit = event.exit_status
        if process is not self.init:
            return
        if left := [one.pid for one in self.execs.values() if one.exit is None]:
            self._differ(f"EXIT of init before that of {left}: {event}")
        if event.exit_status not in self._statuses | {KILLED}:
            self._differ(f"init has exited with {event.exit_status}")
        if not self.possible & {STOPPED, NONE}:
            self._differ(f"init has exited and nothing has killed it: {event}")
        self._base = (self._base if self._base == {NONE} else {STOPPED}) or {STOPPED}
        self._update()

    # What the test does to it.

    def find(self, pid: int) -> Process | None:
        """Returns the process of that pid, if an event has named it."""
        if self.init is not None and pid == self.init.pid:
            return self.init
        return self.execs.get(pid)

    def killed(self, pid: int) -> None:
        """Notes that a process is about to be sent SIGKILL."""
        process = self.find(pid)
        if process is not None:
            process.killed = True
        if process is self.init:
            self._mortal = self._ending = True
            self._update()

    def has_terminal(self, pid: int) -> bool:
        """Returns whether a process has a terminal."""
        if self.init is not None and pid == self.init.pid:
            return self._terminal
        program = self.programs.get(pid)
        return program is not None and program.terminal

    def may_have_terminal(self, pid: int) -> bool:
        """Returns whether a process may have a terminal: which one it is says only the answer to its Exec."""
        if pid in self.programs or self.find(pid) is self.init:
            return self.has_terminal(pid)
        unanswered = [call.program for call in self._calls if call.program is not None]
        return any(program.terminal for program in self.unknown + unanswered)

    def may_be_dead(self, process: Process) -> bool:
        """Returns whether a process may be dead already."""
        if process.exit is not None or process.killed or process.deletes or self.possible & {STOPPED, NONE}:
            return True
        return process is not self.init and self.programs.get(process.pid, _MORTAL).statuses != frozenset()

    # What State says.

    def differs(self, reply: StateResponse) -> str:
        """Returns in words how State's reply differs, now that all is quiet; empty if it does not."""
        if not reply.processes:
            left = [reply.id, reply.bundle, reply.init_pid]
            if any(left):
                return f"State has no process, but {left}"
            return "" if NONE in self.possible else f"State has nothing; it must be {self.possible}"
        if self.init is None:
            return f"State has a container of which there was no CREATE: {reply}"
        states = {process.pid: State(process.state).name or "" for process in reply.processes}
        if (reply.id, reply.init_pid) != (self.id, self.init.pid) or len(states) != len(reply.processes):
            return f"State names container or init otherwise than Events, or a pid twice: {reply}"
        mine = states.get(self.init.pid, NONE)
        if mine not in self.possible or (mine == STOPPED) != (self.init.exit is not None):
            return f"State says that init is {mine}, of {self.possible}; EXIT: {self.init.exit}"
        listed = [self.init, *(one for one in self.execs.values() if not one.deleted)]
        # Of a Delete that was cut off either may be true.
        expected = [one.pid for one in listed if one.pid in states or not one.deletes or one is self.init]
        if [*states] != expected:
            return f"State lists {[*states]}; it must be {expected}"
        of_execs = RUNNING if mine == CREATED else mine
        for one in listed[1:]:
            wanted = of_execs if one.exit is None else STOPPED
            if states.get(one.pid, wanted) != wanted:
                return f"State says that {one.pid} is {states[one.pid]}; it must be {wanted}"
        if unlisted := [pid for pid in self.programs if pid not in self.execs]:
            return f"there was no EXEC_ADDED of {unlisted}"
        return ""

    def seen(self, call: Call, reply: StateResponse) -> None:
        """Takes note of what State says in the middle of it all, which is true of some moment in its span."""
        self._end(call, answered=True)
        states = {process.pid: State(process.state).name or "" for process in reply.processes}
        mine = states.get(reply.init_pid, NONE)
        if mine not in call.span:
            self._differ(f"State says that init is {mine}, of {call.span}")
        for pid, state in states.items():
            if call.before.get(pid, state) != state:
                self._differ(f"State says that {pid} is {state}, after it was {call.before[pid]}")

    def settle(self, reply: StateResponse) -> None:
        """Takes up what State says, of what it may say, and knows again what there is."""
        init = self.init
        if not reply.processes or init is None:
            self._base = {NONE}
        else:
            self._base = {State(process.state).name or "" for process in reply.processes[:1]}
            listed = {process.pid for process in reply.processes}
            for process in self.execs.values():
                process.deleted = process.pid not in listed
        self._group = []
        self._update()
        strangers = [one for pid, one in self.execs.items() if pid not in self.programs]
        if len(strangers) > len(self.unknown):
            self._differ(f"more EXEC_ADDED than Execs: {[one.pid for one in strangers]}")
        for pid, process in self.execs.items():
            if process.exit is None:
                continue
            if process.exit == KILLED and (process.killed or process.deletes or self._ending):
                continue
            programs = [self.programs[pid]] if pid in self.programs else self.unknown
            if not any(process.exit in program.statuses for program in programs):
                self._differ(f"{pid} has exited with {process.exit}: {[one.args for one in programs]}")

    def _closure(self) -> set[str]:
        """Returns every state that the calls under way can lead to, in any order."""
        found = set(self._base)
        while True:
            more = {
                state for call in self._group for one in found for state in _EFFECTS[call.kind].get(one, ())
            }
            if self._mortal and found & {CREATED, RUNNING, PAUSED}:
                more.add(STOPPED)
            if more <= found:
                return found
            found |= more

    def _update(self) -> None:
        self.possible = self._closure()
        for call in self._calls:
            call.span |= self.possible
            call.crowded = call.crowded or any(other is not call for other in self._group)


_MORTAL = Program((), frozenset({0}))
