"""Recipes that run by themselves: at fixed times, or when their sources change.

Every run is the command ``atomlake run`` in a process of its own, so that what it does to
itself it does not do to the schedule, and what happened is known from its exit code and its
row in the catalogue.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from atomlake import recipe as recipes
from atomlake import sources
from atomlake.errors import AtomlakeError, ExitCode, RecipeError
from atomlake.lake import Lake, layout
from atomlake.recipe import Notification, Recipe, Schedule
from atomlake.sources.base import Fingerprint

logger = logging.getLogger("atomlake")

#: State of each location, by source and location.
States = dict[tuple[str, str], Fingerprint]

#: Exit codes that another attempt cannot change.
_FINAL = {ExitCode.DONE, ExitCode.RECIPE, ExitCode.REFUSED, ExitCode.DAMAGED, ExitCode.CHECKS}

#: Seconds that a webhook and a notification command are given.
PATIENCE = 30

#: Last lines of what a run wrote that a report holds.
N_LINES = 20


@dataclass(frozen=True)
class Attempt:
    """One run that the schedule started.

    Attributes
    ----------
    recipe : str
        File of the recipe.
    lake : str
        The lake it fills.
    command : str
        ``run`` or ``check``.
    started, finished : str
        ISO times.
    exit_code : int
        What it ended with; negative is the signal that killed it.
    what : str
        The exit code in words.
    attempt : int
        1 for the first, more for repetitions.
    output : list of str
        Last lines that it wrote.
    host : str
        This machine.
    """

    recipe: str
    lake: str
    command: str
    started: str
    finished: str
    exit_code: int
    what: str
    attempt: int
    output: list[str]
    host: str = field(default_factory=socket.gethostname)


@dataclass
class Keeper:
    """Runs one recipe: with repetitions, checks afterwards, and a report of failure.

    Parameters
    ----------
    path : Path
        The recipe.
    stopping : threading.Event
        Set when nothing more is to be started.
    """

    path: Path
    stopping: threading.Event
    process: subprocess.Popen[str] | None = None

    def __call__(self) -> Attempt | None:
        """Run the recipe as its file says at this moment, until it is done or given up."""
        try:
            recipe = recipes.load(self.path)
        except RecipeError as problem:
            logger.error("%s", problem)
            return None
        schedule = recipe.schedule or Schedule(cron="* * * * *", retries=0)
        attempt = None
        for number in range(1, schedule.retries + 2):
            attempt = self._run(recipe, "run", number)
            if attempt.exit_code in _FINAL or self.stopping.is_set():
                break
            if number <= schedule.retries:
                pause = schedule.back_off * 2 ** (number - 1)
                logger.warning("%s: again in %.0f s", self.path, pause)
                if self.stopping.wait(pause):
                    break
        if attempt is not None and attempt.exit_code == ExitCode.DONE:
            attempt = self._run(recipe, "check", 1)
        if attempt is not None and attempt.exit_code != ExitCode.DONE:
            notify(schedule.notify, attempt)
        return attempt

    def stop(self) -> None:
        """Interrupt the run that is at work; what it finished is in the lake."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def _run(self, recipe: Recipe, command: str, number: int) -> Attempt:
        logger.info("%s: %s, attempt %d", self.path, command, number)
        started = datetime.now(UTC)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "atomlake", command, str(self.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        output, _ = self.process.communicate()
        code = self.process.returncode
        attempt = Attempt(
            recipe=str(self.path),
            lake=recipe.lake,
            command=command,
            started=started.isoformat(timespec="seconds"),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            exit_code=code,
            what=_in_words(code),
            attempt=number,
            output=output.splitlines()[-N_LINES:],
        )
        level = logging.INFO if code == ExitCode.DONE else logging.ERROR
        logger.log(level, "%s: %s %s", self.path, command, attempt.what)
        for line in attempt.output:
            logger.log(level, "%s: %s", self.path, line)
        return attempt


def keep(paths: Sequence[Path]) -> None:
    """Run recipes at the times that they name, until this process is told to stop.

    A recipe never overlaps itself: what falls due while it runs is left out, and said so. Times
    that passed while nobody kept the schedule, or while the machine slept, are made up for by
    one run.

    Raises
    ------
    RecipeError
        If a recipe is wrong, or has no schedule.
    """
    from apscheduler.events import EVENT_JOB_MAX_INSTANCES
    from apscheduler.schedulers.background import BackgroundScheduler

    stopping = threading.Event()
    keepers = {path: Keeper(path, stopping) for path in paths}
    scheduler = BackgroundScheduler(
        timezone="UTC",
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        executors={"default": {"type": "threadpool", "max_workers": max(1, len(paths))}},
    )
    scheduler.add_listener(
        lambda event: logger.warning("%s: still running, this time is left out", event.job_id),
        EVENT_JOB_MAX_INSTANCES,
    )
    for path, keeper in keepers.items():
        schedule, missed = _due(path)
        if missed is not None:
            logger.warning("%s: the run of %s was missed; it runs now", path, missed)
        first = {"next_run_time": datetime.now(UTC)} if missed is not None else {}
        scheduler.add_job(keeper, schedule.trigger(), id=str(path), **first)
    with _until_told(stopping):
        scheduler.start()
        for job in scheduler.get_jobs():
            logger.info("%s: next at %s", job.id, job.next_run_time)
        stopping.wait()
        scheduler.pause()
        for keeper in keepers.values():
            keeper.stop()
        scheduler.shutdown(wait=True)


def watch(path: Path, every: float) -> None:
    """Run a recipe whenever its sources change, until this process is told to stop.

    A source counts as changed once it looks different from the last run and the same as one
    look ago, so that a file that is being written is left to be finished.

    Parameters
    ----------
    path : Path
        The recipe.
    every : float
        Seconds between looks.
    """
    stopping = threading.Event()
    keeper = Keeper(path, stopping)
    done: States | None = None
    before: States = {}
    with _until_told(stopping):
        while not stopping.is_set():
            try:
                seen = _states(recipes.load(path), before)
            except AtomlakeError as problem:
                logger.warning("%s", problem)
                seen = before
            if seen and seen != done and seen == before:
                attempt = keeper()
                if attempt is not None and attempt.exit_code == ExitCode.DONE:
                    done = seen
            before = seen
            stopping.wait(every)


def _states(recipe: Recipe, before: States) -> States:
    """Return the state of every location of a recipe's sources."""
    with tempfile.TemporaryDirectory(prefix="atomlake-") as scratch:
        states = {}
        for source in recipe.sources:
            for location in sources.expand(source):
                name = (source.label, location)
                reader = sources.reader(location, source, Path(scratch))
                states[name] = reader.fingerprint(before.get(name))
        return states


def notify(who: Notification, attempt: Attempt) -> None:
    """Tell that a scheduled run failed; a notification that fails is only logged."""
    report = json.dumps(asdict(attempt), indent=2)
    if who.command is not None:
        try:
            subprocess.run(
                who.command, shell=True, input=report, text=True, timeout=PATIENCE, check=True
            )
        except (OSError, subprocess.SubprocessError) as problem:
            logger.error("the notification command failed: %s", problem)
    if who.webhook is not None:
        request = urllib.request.Request(
            str(who.webhook), report.encode(), {"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=PATIENCE).close()
        except (OSError, urllib.error.URLError) as problem:
            logger.error("the notification could not be sent to %s: %s", who.webhook.host, problem)


def _due(path: Path) -> tuple[Schedule, datetime | None]:
    """Return a recipe's schedule, and the time at which it should have run and did not."""
    recipe = recipes.load(path)
    if recipe.schedule is None:
        raise RecipeError(f"{path}: the recipe has no schedule; add one: schedule: '0 2 * * *'")
    if not layout.is_lake(recipe.lake):
        return recipe.schedule, None
    runs = Lake.open(recipe.lake).runs()
    mine = runs.filter(runs["recipe_hash"] == recipe.recipe_hash)
    if mine.is_empty():
        return recipe.schedule, None
    last: datetime = mine["started"].max()  # type: ignore[assignment]
    following = recipe.schedule.trigger().get_next_fire_time(last, last)
    missed = following is not None and following <= datetime.now(UTC)
    return recipe.schedule, following if missed else None


@contextmanager
def _until_told(stopping: threading.Event) -> Iterator[None]:
    """Set an event on SIGTERM and SIGINT; put their handlers back on leaving."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_words(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    if code in set(ExitCode):
        return f"ended with {code} ({ExitCode(code).name.lower()})"
    return f"ended with {code}"
