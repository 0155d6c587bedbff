"""Where jobs run. Every executor has one verb, `run(launches, slots...)`, and runs the same command."""
