"""A recipe as an asset of Dagster, every night: ``dagster dev -f workflows/dagster_schedule.py``.

An example for those who have Dagster already; atomlake does not depend on it. Dagster keeps
the schedule, the history and the page; the run itself is the command it would be anywhere.
"""

import subprocess

import dagster

RECIPE = "workflows/quickstart.yaml"


@dagster.asset(retry_policy=dagster.RetryPolicy(max_retries=3, delay=60))
def lake(context: dagster.AssetExecutionContext) -> None:
    """Bring the lake up to date, then check it."""
    for command in ("run", "check"):
        done = subprocess.run(
            ["atomlake", command, RECIPE], capture_output=True, text=True, check=False
        )
        context.log.info(done.stdout + done.stderr)
        done.check_returncode()


definitions = dagster.Definitions(
    assets=[lake],
    schedules=[
        dagster.ScheduleDefinition(
            name="nightly", target=dagster.AssetSelection.assets(lake), cron_schedule="0 2 * * *"
        )
    ],
)
