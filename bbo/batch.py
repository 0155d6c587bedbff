"""The child process that is NOMAD: `python -m bbo.batch PARAMETERS`, NOMAD's own batch mode on a file of lines.

Always a process of its own: bad parameters abort it, and it holds the interpreter for as long as it runs.
"""

import sys
from pathlib import Path

import PyNomad

if __name__ == "__main__":
    PyNomad.optimizeWithMainStep(Path(sys.argv[1]).read_text().splitlines())
