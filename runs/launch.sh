#!/usr/bin/env bash
# What the launch scripts of the documented experiments share: runs/launch.sh NAME [options of nomad]
set -euo pipefail
name=${1:?name an experiment: runs/launch.sh NAME [options of nomad]}
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -f .venv/bin/activate ]]; then
  source .venv/bin/activate
fi

mix=$(cd params && realpath -m "${MIX:-../data/mix}") # relative to params/, as in the YAML
if [[ " $* " != *" --dry-run "* && ! (-f $mix/train.jsonl && -f $mix/valid.jsonl) ]]; then
  echo "no train.jsonl and valid.jsonl in $mix: build them from Alpaca's alpaca_data.json" \
    "(github.com/tatsu-lab/stanford_alpaca) and Dolly's databricks-dolly-15k.jsonl" \
    "(huggingface.co/datasets/databricks/databricks-dolly-15k):" \
    "python -m blackbox.data mix ALPACA_JSON DOLLY_JSONL --out $mix" >&2
  exit 1
fi
exec nomad "params/$name.txt" "$@"
