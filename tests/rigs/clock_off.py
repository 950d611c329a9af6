"""A program of the package whose clock is off.

    clock_off.py SECONDS PROGRAM ARGUMENTS

Unix time alone, as Python reads it; PROGRAM is one of the virtual environment.
"""

import runpy
import sys
import time

_read = time.time


def main() -> None:
    seconds, *arguments = sys.argv[1:]
    time.time = lambda: _read() + float(seconds)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
