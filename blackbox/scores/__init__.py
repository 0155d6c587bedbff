"""Benchmark scores of an adapter: any lm-eval task, read from local files where there are some.

    settings.py   the YAML's `scores` section          requests.py    which scores an experiment's outputs need
    live.py       scores of a job's adapters           sources.py     a task's local files
    tasks.py      lm-eval's tasks on them, checked     catalogue.py   what tasks there are
    harness.py    lm-eval on the model that is loaded  mmlu.py        prompts with shared beginnings
    humaneval.py  pass@k of what completions.py has    sandbox.py     runs it (confine.py, seccomp.py: shut in)
    adapters.py   whose turn it is

A scorer is a function of the model, a PeftModel in evaluation mode whose layers compute what PEFT says: it sets the
adapter that it scores, and gives back one `Scored` for each of the names it was called with.
"""
