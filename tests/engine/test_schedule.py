"""Recipes that run by themselves, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml

from atomlake.engine.schedule import Attempt, Keeper, _due, notify
from atomlake.errors import ExitCode, RecipeError
from atomlake.lake import Lake
from atomlake.recipe import Notification, parse


@pytest.fixture
def recipe(database, tmp_path):
    """Write the database's recipe with more keys, and return its file."""

    def write(**more):
        content = database.recipe.model_dump(mode="json", exclude={"cluster", "limits", "parts"})
        content |= {"cluster": {"kind": "local", "workers": 1, "dashboard": False}} | more
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def runs(database):
    return database.open().runs()


def keeper(path):
    return Keeper(path, threading.Event())


# ----- The recipe


@pytest.mark.parametrize("cron", ["0 2 * * *", "*/5 8-18 * * mon-fri"])
def test_a_schedule_may_be_given_as_five_fields(cron):
    text = f"lake: l\nsources: [{{path: 'ase:g2'}}]\nschedule: '{cron}'\n"
    assert parse(text).schedule.cron == cron


@pytest.mark.parametrize(
    "schedule", ["'0 25 * * *'", "hourly", "{cron: '0 2 * * *', timezone: Europe/Atlantis}"]
)
def test_an_impossible_schedule_is_refused_with_its_line(schedule):
    with pytest.raises(RecipeError, match=r"r:3: schedule: .*is no schedule"):
        parse(f"lake: l\nsources: [{{path: 'ase:g2'}}]\nschedule: {schedule}\n", "r")


# ----- Runs


def test_a_run_is_followed_by_its_checks(database, recipe):
    attempt = keeper(recipe())()
    assert (attempt.command, attempt.exit_code) == ("check", ExitCode.DONE), attempt.output
    assert runs(database)["status"].to_list() == ["finished"]


def test_a_failed_run_is_repeated_and_reported(database, recipe, tmp_path):
    report = tmp_path / "report.json"
    path = recipe(
        sources=[{"path": str(tmp_path / "later.xyz"), "name": "db"}],
        schedule={
            "cron": "0 2 * * *",
            "retries": 2,
            "back_off": 0.01,
            "notify": {"command": f"cat > {report}"},
        },
    )
    attempt = keeper(path)()
    assert (attempt.exit_code, attempt.attempt) == (ExitCode.SOURCE, 3)
    told = json.loads(report.read_text())
    assert told["what"] == "ended with 3 (source)"
    assert "matches no file" in "\n".join(told["output"])


def test_a_recipe_that_became_wrong_is_not_repeated(recipe):
    path = recipe(schedule={"cron": "0 2 * * *", "retries": 2, "back_off": 0.01})
    keep = keeper(path)
    path.write_text(path.read_text() + "unknown: 1\n")
    assert keep() is None


def test_a_run_that_was_killed_is_seen_as_such(database, recipe):
    database.run()
    row = runs(database).row(-1, named=True)
    started = datetime.now(UTC) - timedelta(hours=1)
    dead = row | {"run_id": "dead", "status": "running", "started": started, "finished": None}
    database.open().catalogue.publish_run(dead)
    database.run()
    history = dict(runs(database).select("run_id", "status").iter_rows())
    assert history.pop("dead") == "killed"
    assert set(history.values()) == {"finished"}


def test_a_killed_process_is_told_from_one_that_failed(database, recipe):
    keep = keeper(recipe(schedule={"cron": "0 2 * * *", "retries": 0}))
    result = []
    thread = threading.Thread(target=lambda: result.append(keep()))
    thread.start()
    while keep.process is None:
        time.sleep(0.01)
    os.kill(keep.process.pid, signal.SIGKILL)
    thread.join()
    assert result[0].what == "was killed by SIGKILL"


# ----- Times


def test_a_time_that_passed_unkept_is_due_now(database, recipe):
    path = recipe(schedule="* * * * *")
    assert _due(path)[1] is None  # a lake that was never run waits for its time
    database.run()
    assert _due(path)[1] is None
    row = Lake.open(database.lake).runs().row(-1, named=True)
    database.open().catalogue.publish_run(row | {"started": datetime.now(UTC) - timedelta(hours=2)})
    missed = _due(path)[1]
    assert missed is not None
    assert datetime.now(UTC) - missed > timedelta(minutes=110)


def test_a_recipe_without_schedule_is_not_kept(recipe):
    with pytest.raises(RecipeError, match="has no schedule"):
        _due(recipe())


def test_the_command_stops_when_it_is_told(recipe):
    process = subprocess.Popen(
        [sys.executable, "-m", "atomlake", "schedule", str(recipe(schedule="0 2 1 1 *"))],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "next at" in process.stderr.readline()
    process.terminate()
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0, rest


# ----- A folder that grows


def test_watch_runs_when_the_source_changed_and_rests(database, recipe):
    process = subprocess.Popen(
        [sys.executable, "-m", "atomlake", "watch", str(recipe()), "--every", "0.2"],
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = iter(process.stderr.readline, "")

    def wait_for_check():
        return next(line for line in lines if "check ended with 0" in line)

    try:
        assert wait_for_check()
        database.structures.pop()
        database.save()
        assert wait_for_check()
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert runs(database)["status"].to_list() == ["finished"] * 2
    assert len(database.features()) == 4


# ----- Notifications


@pytest.fixture
def webhook():
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", received
    server.shutdown()
    thread.join()
    server.server_close()


def attempt_that_failed():
    return Attempt("r.yaml", "lake", "run", "t0", "t1", -9, "was killed by SIGKILL", 4, ["bye"])


def test_a_webhook_gets_the_report(webhook):
    url, received = webhook
    notify(Notification(webhook=url), attempt_that_failed())
    assert received[0]["what"] == "was killed by SIGKILL"


def test_a_notification_that_fails_does_not_stop_the_schedule(caplog):
    notify(
        Notification(webhook="http://127.0.0.1:9/secret", command="exit 3"), attempt_that_failed()
    )
    assert "the notification command failed" in caplog.text
    assert "could not be sent to 127.0.0.1" in caplog.text
    assert "secret" not in caplog.text
