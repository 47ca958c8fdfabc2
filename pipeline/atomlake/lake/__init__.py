"""The lake: immutable parts, published through a catalogue, read as labelled arrays."""

from atomlake.lake.lake import Lake

open = Lake.open
create = Lake.create

__all__ = ["Lake", "create", "open"]
