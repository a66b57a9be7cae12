"""Captures a step of generation once, and replays it at all other sites without Python.

A step consists of about a hundred tiny operations. Calling them costs more than computing them.

1. Capture (capture.py): PyTorch computes the first steps, and every operation is recorded, with
   the memory that it uses. At other sites the same operations use other memory. Every index is a
   row or a column, times something, plus something, so every address is an affine function of
   both (affine.py): two steps in a row and one in the row below determine all others.
2. Lowering (lowering.py): operations become instructions, and neighbouring ones are fused. An
   operation that has no instruction stays a call of PyTorch.
3. Program (script.py, program.py, program.c): memory is allocated, weights are packed, and the
   instructions are encoded for program.c, which is compiled once on the user's machine.
4. Replay (replay.py): at every other site the script is played: one call of C, unless some
   operations are left to PyTorch. The next generation reuses it (reuse.py).

No network is written twice: the operations of its layers are captured. Without a C compiler PyTorch
computes every step.
"""

from nextpixel.engine.replay import Replay, begin_replay
from nextpixel.engine.reuse import fingerprint, resume_replay, store_replay

__all__ = ["Replay", "begin_replay", "fingerprint", "resume_replay", "store_replay"]
