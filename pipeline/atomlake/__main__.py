"""The command ``atomlake``, which is also ``python -m atomlake``."""

import atexit
import gc

from atomlake.cli import main


def start() -> None:
    """Run the command, and look for garbage less often than Python does by itself.

    Modules are hundreds of thousands of objects that stay: to go through them again and again
    while importing, and once more at the end, takes most of a second.
    """
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)
    main()


if __name__ == "__main__":
    start()
