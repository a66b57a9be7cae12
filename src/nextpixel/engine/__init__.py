"""Records a step of generation once, and replays it at all other sites without Python.

A step is some hundred tiny operations, and calling them costs more than computing them. So the
first steps, which PyTorch computes, are watched: which operations, on which places in memory
(capture.py). At the other sites the same operations use other places; as every index is a row or a
column, times something, plus something, so is every place, and two steps in a row and one in the
row below tell all others. They become a script (script.py) for a small compiled program
(program.c).

No network is written twice: whatever its layers do is what is recorded. What the program does not
know is called in PyTorch, between two runs of it. Without a C compiler there is no program, and
every step is computed by PyTorch.
"""

from nextpixel.engine.replay import Tape, begin_tape
from nextpixel.engine.reuse import keep_tape, kept_tape, surroundings

__all__ = ["Tape", "begin_tape", "keep_tape", "kept_tape", "surroundings"]
