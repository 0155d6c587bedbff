#!/usr/bin/env bash
# Experiment 2, validation loss, on a server with 4 x A100-80GB: runs/bbo2.sh [options of nomad]
exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" bbo2 "$@"
