"""The `shoal` command, and `python -m shoal`."""

import contextlib
import os
import signal
import sys

from shoal import cli


def main() -> int:
    """Run the command line. Modules in the working directory can be imported, such as `--env myenvs:Mine-v0`.

    They come last on the path, so that none of them hides one of Shoal's or of a library's.

    SIGTERM ends it in order, with 143, unless a command knows better: without a handler the kernel would not give it to
    the first process of a container.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with contextlib.suppress(FileNotFoundError):  # the working directory was removed
        here = os.getcwd()
        if here not in sys.path:
            sys.path.append(here)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
