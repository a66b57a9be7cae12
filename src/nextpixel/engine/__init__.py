"""The engine: a model becomes a program, which draws and scores pictures in C.

Making a program needs PyTorch and the model (`compile.py`); running it needs NumPy alone.

1. Capture: PyTorch computes steps at a few sites, and every operation is noted (capture.py,
   sections.py).
2. Fit: the places of the tensors become affine functions of the site (affine.py).
3. Lower: operations become instructions (lowering.py).
4. Lay out: tensors get places in memory, and the program becomes a file (compile.py, file.py).
5. Run: the C library checks the file and runs it (native/, library.py, program.py).

No network is written twice: the operations of its layers are captured.
"""

from nextpixel.engine.coder import Coder
from nextpixel.engine.program import Images, Program, Session

__all__ = ["Coder", "Images", "Program", "Session"]
