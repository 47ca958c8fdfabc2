"""The state of a lake for people who look and for programs that watch: a page, and metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from atomlake.errors import AtomlakeError
from atomlake.lake import Lake, layout
from atomlake.lake.summary import summarise
from atomlake.quantities import duration, size

#: Runs, set-aside structures and messages that the page lists.
N_RUNS, N_REJECTED, N_MESSAGES = 15, 25, 10

#: Size of the chart of runs, in its own units.
_CHART = {"width": 760, "height": 120, "base": 100}


def page(lake: Lake, every: int | None = None) -> str:
    """Return the page: one HTML file that needs nothing else.

    Parameters
    ----------
    lake : Lake
        As it is at this moment.
    every : int, optional
        Seconds after which a browser reads the file again.
    """
    from jinja2 import Environment

    # Everything that is shown is escaped: names and reasons come from files of others.
    environment = Environment(autoescape=True)
    environment.filters |= {"number": "{:,.0f}".format, "size": size, "duration": duration}
    text = files(__package__).joinpath("status_page.html").read_text(encoding="utf-8")
    return environment.from_string(text).render(every=every, chart=_CHART, **_content(lake))


def metrics(lake: Lake) -> str:
    """Return the same numbers in Prometheus' text format, for its textfile collector."""
    try:
        from prometheus_client import CollectorRegistry, Gauge, generate_latest
    except ImportError as problem:
        raise AtomlakeError(
            "metrics need the package prometheus-client: pip install 'atomlake[metrics]'"
        ) from problem

    registry = CollectorRegistry()

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"atomlake_{name}", text, labels, registry=registry)

    content = _content(lake)
    gauge("structures", "Structures in the lake.").set(content["n_structures"])
    gauge("atoms", "Atoms in the lake.").set(content["n_atoms"])
    gauge("parts", "Parts of the lake.").set(content["n_parts"])
    gauge("bytes", "Bytes of the lake on disk.").set(content["nbytes"])
    aside = gauge("set_aside", "Structures that were set aside.", ("code",))
    for code, n in content["set_aside"].items():
        aside.labels(code).set(n)
    covered = gauge("descriptor_structures", "Structures with a descriptor.", ("descriptor",))
    for entry in content["descriptors"]:
        covered.labels(entry["descriptor_id"]).set(entry["n_structures"])
    if content["runs"]:
        last = content["runs"][0]
        started = datetime.fromisoformat(last["started"]).timestamp()
        gauge("last_run_start_timestamp_seconds", "Start of the last run.").set(started)
        gauge("last_run_seconds", "How long the last run took.").set(last["took"] or 0.0)
        gauge("last_run_structures", "What the last run computed.").set(last["n_structures"])
        gauge("last_run_ok", "1 if the last run finished, 0 if not.").set(
            last["status"] in ("finished", "running")
        )
    if content["progress"]:
        gauge("run_structures", "Computed by the run at work.").set(
            content["progress"]["n_structures"]
        )
        gauge("run_planned_structures", "Planned by the run at work.").set(
            content["progress"]["n_planned"]
        )
    return str(generate_latest(registry).decode())


# ----- What they show


def _content(lake: Lake) -> dict[str, Any]:
    summary = summarise(lake)
    rejected = lake.rejected()
    runs = [_run(row) for row in lake.runs().tail(N_RUNS).iter_rows(named=True)][::-1]
    log = _newest_log(lake)
    return summary | {
        "now": datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
        "n_set_aside": len(rejected),
        "rejected": rejected.tail(N_REJECTED).to_dicts(),
        "descriptors": [
            d | {"percent": 100 * d["n_structures"] / max(1, summary["n_structures"])}
            for d in summary["descriptors"]
        ],
        "runs": runs,
        "rates": list(
            _bars([run for run in reversed(runs) if run["took"] and run["n_structures"]])
        ),
        "log_run": log[0]["run_id"] if log else None,
        "progress": _progress(log, runs),
        "workers": _workers(log),
        "messages": [line for line in log if line["event"] == "WorkerMessage"][-N_MESSAGES:],
    }


def _run(row: dict[str, Any]) -> dict[str, Any]:
    counts = json.loads(row["counts"] or "{}")
    finished = row["finished"]
    return {
        "run_id": row["run_id"],
        "status": row["status"],
        "started": row["started"].isoformat(sep=" ", timespec="seconds"),
        "took": (finished - row["started"]).total_seconds() if finished else None,
        "n_structures": counts.get("n_structures", 0),
        "nbytes": counts.get("nbytes", 0),
        "reason": row["reason"],
    }


def _bars(runs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Place a bar for each run, its height the structures per second."""
    rates = [run["n_structures"] / run["took"] for run in runs]
    step = _CHART["width"] / max(N_RUNS, 1)
    for i, (run, rate) in enumerate(zip(runs, rates, strict=True)):
        height = max(1.0, (_CHART["base"] - 5) * rate / max(rates))
        yield {
            "run_id": run["run_id"],
            "rate": rate,
            "x": round(i * step + 2, 1),
            "y": round(_CHART["base"] - height, 1),
            "width": round(step - 6, 1),
            "height": round(height, 1),
        }


def _newest_log(lake: Lake) -> list[dict[str, Any]]:
    """Events of the newest run that kept a log; a line that is being written is left out."""
    run_id, log = layout.newest_log(lake.path) or ("", "")
    lines = []
    for text in log.splitlines():
        try:
            lines.append(json.loads(text) | {"run_id": run_id})
        except ValueError:
            break
    return lines


def _progress(log: list[dict[str, Any]], runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """How far the run at work is, or None if none is."""
    at_work = {run["run_id"] for run in runs if run["status"] == "running"}
    planned = next((line for line in log if line["event"] == "Planned"), None)
    if planned is None or planned["run_id"] not in at_work:
        return None
    done = [line for line in log if line["event"] == "UnitDone"]
    n_structures = sum(line["n_structures"] for line in done)
    n_planned = planned["estimate"]["n_structures"]
    started = datetime.fromisoformat(planned["time"])
    seconds = (datetime.now(UTC) - started).total_seconds()
    cluster = next((line for line in log if line["event"] == "ClusterStarted"), None)
    return {
        "run_id": planned["run_id"],
        "n_structures": n_structures,
        "n_planned": n_planned,
        "percent": min(100.0, 100 * n_structures / max(1, n_planned)),
        "rate": sum(line["n_atoms"] for line in done) / max(seconds, 1e-3),
        "dashboard": cluster["dashboard"] if cluster else None,
    }


def _workers(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each worker of the newest run has done."""
    workers: dict[str, dict[str, Any]] = {}
    for line in log:
        if line["event"] == "UnitDone":
            worker = workers.setdefault(
                line["worker"],
                {"n_units": 0, "n_structures": 0, "n_atoms": 0, "seconds": 0.0, "peak_nbytes": 0},
            )
            worker["worker"] = line["worker"]
            worker["n_units"] += 1
            worker["n_structures"] += line["n_structures"]
            worker["n_atoms"] += line["n_atoms"]
            worker["seconds"] += sum(line["seconds"].values())
            worker["peak_nbytes"] = max(worker["peak_nbytes"], line["peak_nbytes"])
            worker["last"] = line["time"]
    return sorted(workers.values(), key=lambda worker: str(worker["worker"]))
