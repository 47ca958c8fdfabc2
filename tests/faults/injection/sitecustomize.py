"""Python imports this by itself at its start if the folder is in PYTHONPATH."""

import kill_points

kill_points.arm_from_environment()
