#!/usr/bin/env bash
# Experiment 1, MMLU, on a server with 4 x A100-80GB: runs/bbo1.sh [options of nomad]
exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" bbo1 "$@"
