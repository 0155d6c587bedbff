"""Benchmark scores of an adapter: any lm-eval task, read from local files where there are some.

    settings.py    the YAML's `scores` section              requests.py   which scores an experiment's outputs need
    sources.py     a task's local files                     harness.py    lm-eval on the model that is loaded
    mmlu.py        its prompts with shared beginnings       humaneval.py  generated programs, run in sandbox.py

A scorer is a function of the model, a PeftModel in evaluation mode whose layers compute what PEFT says: it sets the
adapter that it scores, and gives back one `Scored` for each of the names it was called with.
"""
