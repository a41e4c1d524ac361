"""The last import of the process that workers are forks of.

What it has imported lives as long as its forks do. None of them looks through it for garbage, which would
also copy its pages into the memory of each (the standard library's documentation of `gc.freeze`).
"""

import gc

gc.freeze()
