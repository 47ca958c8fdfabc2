"""``python -m atomlake`` is the command ``atomlake``."""

from atomlake.cli import main

main()
