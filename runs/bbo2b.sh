#!/usr/bin/env bash
# Experiment 2b, ranks to 512, on a server with 4 x A100-80GB: runs/bbo2b.sh [options of nomad]
exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" bbo2b "$@"
