"""The first moment of a server's process: it waits until its record is written, then becomes the server.

Run as a script of its own (`process.begin`), so nothing of ours is imported here. It goes no further when its parent
is gone before it said so, and asks Linux for a SIGTERM when its parent dies later. What it does not know: what it
becomes.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
CANNOT_START = 127


def main(words: list[str]) -> None:
    """Replace this process by a program, once a byte came through standard input."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if not os.read(0, 1):
        sys.exit(CANNOT_START)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and a program would inherit that
    try:
        os.execvp(words[0], words)
    except OSError as error:
        print(f"cannot start {words[0]} ({error.strerror})", flush=True)
        sys.exit(CANNOT_START)


if __name__ == "__main__":
    main(sys.argv[1:])
