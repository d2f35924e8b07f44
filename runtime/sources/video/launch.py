"""Becomes another program, which ends with the process that started us.

python -I -S launch.py PARENT FOLDER PROGRAM [ARGUMENT …]

It runs for every try to open a pipeline, so it imports nothing of ours: Python is there within
some 10 ms of a processor then, and with the package in 80.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    """Go to the folder and become the program; the wish to end with our parent outlives that."""
    parent, folder, *command = sys.argv[1:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it has ended already
        os.kill(os.getpid(), signal.SIGTERM)
    os.chdir(folder)
    os.execvp(command[0], command)  # noqa: S606 -- no shell is wanted


if __name__ == "__main__":
    main()
