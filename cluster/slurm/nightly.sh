#!/bin/bash
# A schedule kept by Slurm: every driver first submits its successor for the next night.
#   cluster/slurm/nightly.sh RECIPE
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sbatch --begin="tomorrow 02:00" --job-name=atomlake-nightly --time=23:00:00 --mem=4G \
  --wrap "'$here/nightly.sh' '$1'; atomlake run '$1' && atomlake check '$1'"
