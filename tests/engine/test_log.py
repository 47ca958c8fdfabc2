"""A run keeps what happened, workers' warnings included, as lines of JSON in the lake."""

import json
import logging

from atomlake.clusters.local import Local
from atomlake.engine.run import run


def lines_of(database, run_id):
    text = (database.lake / "logs" / f"{run_id}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_every_event_of_a_run_is_a_line(database):
    outcome = database.run()
    lines = lines_of(database, outcome.run_id)
    # the process of all tests may hold more memory than the run alone is projected to
    lines = [line for line in lines if line["event"] != "WorkerMessage"]
    assert [line["event"] for line in lines] == ["Planned", "UnitDone", "Published", "Ended"]
    assert lines[1]["n_structures"] == 5
    assert lines[1]["worker"]
    assert lines[-1]["status"] == "finished"


def test_a_run_that_has_nothing_to_do_keeps_no_log(database):
    database.run()
    outcome = database.run()
    assert not (database.lake / "logs" / f"{outcome.run_id}.jsonl").exists()


def test_what_a_worker_warns_of_reaches_the_driver(database):
    with Local(workers=1, dashboard=False).open() as client:
        received = []
        client.subscribe_topic("atomlake-log", lambda event: received.append(event[1]))
        client.submit(logging.getLogger("a.library").warning, "the disk is slow").result()
        client.submit(int).result()
    assert received[0]["message"] == "a.library: the disk is slow"
    assert received[0]["level"] == "WARNING"


def test_a_run_on_a_cluster_keeps_its_log(database):
    recipe = database.recipe.model_copy(update={"cluster": Local(workers=1, dashboard=False)})
    outcome = run(recipe)
    assert "ClusterStarted" in {line["event"] for line in lines_of(database, outcome.run_id)}
