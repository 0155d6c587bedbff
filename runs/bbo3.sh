#!/usr/bin/env bash
# Experiment 3, alpha tied to the rank, on a server with 4 x A100-80GB: runs/bbo3.sh [options of nomad]
exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" bbo3 "$@"
