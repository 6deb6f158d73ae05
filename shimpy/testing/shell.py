"""The shell code of a fake runtime: builtins only, so that it costs about a millisecond."""

from __future__ import annotations

from typing import Final, Literal, get_args

# A command of a runtime that a fault can be set for.
Command = Literal["create", "start", "exec", "pause", "resume", "kill", "delete", "state"]

# Every command that a fault can be set for.
COMMANDS: Final[tuple[Command, ...]] = get_args(Command)


_SAFE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:{}_/")


def printf(data: bytes) -> str:
    """Returns the shell command that writes these bytes, whatever they are."""
    text = "".join(chr(byte) if byte in _SAFE else f"\\{byte:03o}" for byte in data)
    return f"printf '{text}'"


def letters(count: int) -> str:
    """Returns the shell command that writes so many bytes, in lines."""
    return f"yes {'x' * 63} | head -c {count}"


WORK: Final = '_fake_work "$@"'

# Each name begins with _fake_ because to assign to a variable that is in the environment is to
# change what the real runtime sees.
FAULT: Final = """\
_fake_fault() {{
:
{script}
}}
"""

# `true` with a redirection is how a shell without a fork asks for O_CREAT | O_EXCL, so that of commands
# which run side by side each takes one turn.
TIMES: Final = """\
_fake_turn=0
_fake_hit=
set -C
while [ -z "$_fake_hit" ] && [ "$_fake_turn" -lt {times} ]; do
    _fake_turn=$((_fake_turn + 1))
    {{ true >"$_fake_directory/turn.{id}.$_fake_turn"; }} 2>/dev/null && _fake_hit=1
done
set +C
[ "$_fake_hit" ] || _fake_fault() {{ :; }}
"""

SCRIPT: Final = r"""
_fake_work() {
    if [ "$_fake_real" ]; then "$_fake_real" "$@"; fi
}

_fake_command=
_fake_log=
_fake_pid_file=
_fake_console=
_fake_option=
_fake_take() {
    case $_fake_option in
        log) _fake_log=$1 ;;
        pid-file) _fake_pid_file=$1 ;;
        console-socket) _fake_console=$1 ;;
    esac
    _fake_option=
}
for _fake_word do
    if [ "$_fake_option" ]; then
        _fake_take "$_fake_word"
        continue
    fi
    case $_fake_word in
        -*)
            _fake_option=${_fake_word#-}
            _fake_option=${_fake_option#-}
            case $_fake_option in
                *=*)
                    _fake_value=${_fake_option#*=}
                    _fake_option=${_fake_option%%=*}
                    _fake_take "$_fake_value" ;;
                root | log | log-format | log-level | criu | rootless | cgroup-manager | \
                bundle | b | pid-file | console-socket | preserve-fds | \
                process | p | cgroup | cwd | env | e | user | u | additional-gids | g | \
                process-label | apparmor | cap | c) ;;
                *) _fake_option= ;;
            esac ;;
        *) [ "$_fake_command" ] || _fake_command=$_fake_word ;;
    esac
done

# Before the call is noted, so that a release reaches all calls that have been, and a call that was seen and
# then killed has had its turn.
read -r _fake_hold <"$_fake_directory/hold"
_fake_fault() { :; }
case $_fake_command in
    create | start | exec | pause | resume | kill | delete | state)
        . "$_fake_directory/$_fake_command" ;;
esac
printf '%s\0' "$_fake_command" $$ $# "$@" >>"$_fake_directory/calls"
_fake_fault "$@"
[ "$_fake_real" ] || exit 0
exec "$_fake_real" "$@"
"""
