"""What happens during a run, as events; whoever wants to show or keep them listens."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atomlake.engine.units import Estimate

logger = logging.getLogger("atomlake")


@dataclass(frozen=True)
class Planned:
    """The plan is made; nothing has been computed."""

    n_units: int
    estimate: Estimate


@dataclass(frozen=True)
class ClusterStarted:
    """Workers are being started; ``dashboard`` is the address of dask's page, if it has one."""

    description: str
    dashboard: str | None


@dataclass(frozen=True)
class UnitDone:
    """A unit came back from a worker; not yet visible to readers."""

    n_structures: int
    n_atoms: int
    set_aside: Mapping[str, int]
    seconds: Mapping[str, float]
    nbytes: int
    projected_nbytes: int
    peak_nbytes: int
    worker: str


@dataclass(frozen=True)
class UnitFailed:
    """A unit was given up; its structures stay undone."""

    n_structures: int
    reason: str


@dataclass(frozen=True)
class Published:
    """Parts became visible to readers."""

    n_parts: int
    n_structures: int


@dataclass(frozen=True)
class Note:
    """Something a person should know."""

    message: str


@dataclass(frozen=True)
class WorkerMessage:
    """A warning or an error that a worker logged."""

    worker: str
    level: str
    message: str


@dataclass(frozen=True)
class Ended:
    """The run is over; ``status`` and ``reason`` are those of its row in the catalogue."""

    status: str
    reason: str | None


Event = Planned | ClusterStarted | UnitDone | UnitFailed | Published | Note | WorkerMessage | Ended
Listener = Callable[[Event], None]


@dataclass
class Totals:
    """What a run did, summed over its events."""

    n_structures: int = 0
    n_atoms: int = 0
    n_parts: int = 0
    nbytes: int = 0
    projected_nbytes: int = 0
    peak_nbytes: int = 0
    n_above_projection: int = 0
    n_failed: int = 0
    set_aside: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Take an event into account."""
        match event:
            case UnitDone():
                self.n_structures += event.n_structures
                self.n_atoms += event.n_atoms
                self.nbytes += event.nbytes
                self.projected_nbytes = max(self.projected_nbytes, event.projected_nbytes)
                self.peak_nbytes = max(self.peak_nbytes, event.peak_nbytes)
                self.n_above_projection += 0 < event.projected_nbytes < event.peak_nbytes
                self.set_aside.update(event.set_aside)
                for stage, seconds in event.seconds.items():
                    self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
            case UnitFailed():
                self.n_failed += event.n_structures
                self.failures.append(event.reason)
            case Published():
                self.n_parts += event.n_parts

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the catalogue and for programs."""
        return {
            "n_structures": self.n_structures,
            "n_atoms": self.n_atoms,
            "n_parts": self.n_parts,
            "nbytes": self.nbytes,
            "worker_projected_nbytes": self.projected_nbytes,
            "worker_peak_nbytes": self.peak_nbytes,
            "n_units_above_projection": self.n_above_projection,
            "n_failed": self.n_failed,
            "set_aside": dict(self.set_aside),
            "worker_seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "failures": self.failures,
        }


class LogFile:
    """Keeps every event of a run as a line of JSON, with its name and its time.

    Parameters
    ----------
    path : Path
        Made with its folder; lines are written as they come, so that others can follow.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self.file = path.open("a", buffering=1, encoding="utf-8")

    def __call__(self, event: Event) -> None:
        """Write an event."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": type(event).__name__,
            **vars(event),
        }
        self.file.write(json.dumps(line, default=vars) + "\n")

    def close(self) -> None:
        """Write no more."""
        self.file.close()


class LogLines:
    """Writes events to the log: one line at most every ``interval`` seconds of progress."""

    def __init__(self, interval: float = 10.0) -> None:
        self.interval = interval
        self.estimate = Estimate()
        self.n_structures = 0
        self.n_atoms = 0
        self.started = self.spoke = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Log an event."""
        match event:
            case Planned():
                self.estimate = event.estimate
                self.started = self.spoke = time.monotonic()
                logger.info(
                    "planned %d units, %d structures", event.n_units, event.estimate.n_structures
                )
            case ClusterStarted():
                logger.info("%s, dashboard %s", event.description, event.dashboard)
            case UnitDone():
                self.n_structures += event.n_structures
                self.n_atoms += event.n_atoms
                now = time.monotonic()
                if now - self.spoke >= self.interval:
                    self.spoke = now
                    logger.info(
                        "%d of %d structures, %.0f atoms/s",
                        self.n_structures,
                        self.estimate.n_structures,
                        self.n_atoms / (now - self.started),
                    )
            case UnitFailed():
                logger.error("%s", event.reason)
            case Published():
                logger.debug("published %d parts", event.n_parts)
            case Note():
                logger.warning("%s", event.message)
            case WorkerMessage():
                logger.warning("%s: %s", event.worker, event.message)
            case Ended():
                logger.debug("%s", event.status)


class ProgressBar:
    """A bar with structures, atoms per second and time left; for terminals."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.console = Console(file=sys.stderr)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("structures  {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.progress.add_task("planning", total=None, rate="")
        self.n_atoms = 0
        self.started = time.monotonic()

    def __enter__(self) -> ProgressBar:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Planned():
                self.started = time.monotonic()
                self.progress.update(
                    self.task, description="computing", total=event.estimate.n_structures
                )
            case ClusterStarted():
                self.progress.console.print(
                    f"{event.description}, dashboard {event.dashboard}", highlight=False
                )
            case UnitDone():
                self.n_atoms += event.n_atoms
                rate = self.n_atoms / (time.monotonic() - self.started)
                self.progress.update(
                    self.task, advance=event.n_structures, rate=f"{rate:,.0f} atoms/s"
                )
            case UnitFailed():
                self.progress.console.print(f"failed: {event.reason}", style="red", markup=False)
            case Note():
                self.progress.console.print(event.message, style="yellow", markup=False)
            case WorkerMessage():
                self.progress.console.print(
                    f"{event.worker}: {event.message}", style="yellow", markup=False
                )
            case Published() | Ended():
                pass
