"""The entropy coder of the engine: levels to bits and back (native/coder.h)."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from nextpixel.engine.library import CoderState, failed, load_library

__all__ = ["Coder"]


class Coder:
    """An entropy coder: the levels of all images that share it, in the order of their sites.

    Args:
        data: Memory to write to, or to read.
        decodes: Whether it decodes.
    """

    def __init__(self, data: NDArray[np.uint8], *, decodes: bool) -> None:
        self.library, self.data, self.decodes = load_library(), data, decodes
        self.state = CoderState()
        begin = self.library.np_decode if decodes else self.library.np_encode
        begin(ctypes.byref(self.state), data.ctypes.data, len(data))

    @classmethod
    def encoder(cls, room: int) -> Coder:
        """Makes an encoder that has room for some bytes: 4 for each level, and 8, are enough."""
        return cls(np.empty(room, np.uint8), decodes=False)

    @classmethod
    def decoder(cls, data: bytes) -> Coder:
        """Makes a decoder of bytes."""
        return cls(np.frombuffer(data, np.uint8).copy(), decodes=True)

    def code_numbers(self, numbers: NDArray[np.int64], most: int) -> None:
        """Codes numbers in [0, most), each as likely as any other; a decoder writes them.

        Raises:
            UserError: There is no room for the bits, or such a number.
        """
        error = self.library.np_code_numbers(
            ctypes.byref(self.state), numbers.ctypes.data, len(numbers), most
        )
        if error:
            raise failed(error)

    def finish(self) -> bytes:
        """Ends an encoding, and returns its bytes.

        Raises:
            UserError: There is no room for the bits.
        """
        size = self.library.np_finish(ctypes.byref(self.state))
        if size < 0:
            raise failed(size)
        return self.data[:size].tobytes()
