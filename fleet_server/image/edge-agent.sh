#!/bin/sh
# Starts the agent of this folder with its own packages: lib is the agent, site is what requirements.txt names.
here=$(dirname "$(readlink -f "$0")")
export PYTHONPATH="$here/lib:$here/site" PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1 ORT_DISABLE_TELEMETRY=1
exec "${EDGE_PYTHON:-/usr/bin/python3}" -P -c 'from edge_agent.cli import main; main()' "$@"
