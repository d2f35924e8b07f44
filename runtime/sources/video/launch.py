"""Becomes another program, which ends with the process that started us.

python -m hedge.runtime.sources.video.launch FOLDER PROGRAM [ARGUMENT …]
"""

from __future__ import annotations

import os
import sys

from ...children import die_with_parent


def main() -> None:
    """Go to the folder and become the program; the wish to end with our parent outlives that."""
    folder, *command = sys.argv[1:]
    die_with_parent()
    os.chdir(folder)
    os.execvp(command[0], command)  # noqa: S606 -- no shell is wanted


if __name__ == "__main__":
    main()
