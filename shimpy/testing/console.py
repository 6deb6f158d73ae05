"""What a shell cannot do: the program that takes the real runtime's console and hands over something else.

It is run by itself, with none of shimpy's modules. The real runtime is given a console socket of
this program's own, reached through /proc because the directory's path may be longer than a socket's
may.
"""

import os
import socket
import subprocess
import sys


def main(sends: str, directory: str, theirs: str, real: str, *argv: str) -> int:
    """Returns the exit status of the real runtime, once what is to be sent has been sent."""
    fd = os.open(directory, os.O_PATH)
    ours = f"/proc/{os.getpid()}/fd/{fd}/console.{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(ours)
    listener.listen()
    option = "--console-socket="
    swapped = {theirs: ours, option + theirs: option + ours}
    status = subprocess.run([real, *(swapped.get(word, word) for word in argv)], check=False).returncode
    if status == 0 and sends != "no connection":
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(theirs)
            if sends == "text":
                connection.sendall(b"/dev/ptmx")
            elif sends == "a file":
                socket.send_fds(connection, [b"/dev/ptmx"], [os.open("/dev/null", os.O_RDWR)])
    return status if status >= 0 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
