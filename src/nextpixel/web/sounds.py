"""Sounds for a page: sampled when it is written, because decoder and Griffin-Lim need PyTorch."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextpixel.model_folders import bundles

__all__ = ["is_sound_model", "sounds_of"]

ITERATIONS = 60  # of Griffin-Lim


@cache
def is_sound_model(name: str) -> bool:
    """Whether this is a pretrained model of sounds."""
    if name not in bundles():
        return False
    config = json.loads((bundles()[name] / "decoder" / "config.json").read_text("utf-8"))
    return bool(config.get("spectrogram"))


def sounds_of(name: str, show: Callable[[float], None] | None = None) -> dict[str, Any]:
    """Samples a sound of each class, with its codes and its spectrogram.

    Args:
        name: A pretrained model of sounds.
        show: Called with the fraction done.
    """
    from nextpixel.latents.generator import LatentGenerator, part_seed  # imports PyTorch

    generator = LatentGenerator.load(name)
    record = generator.data_record
    assert record.spectrogram is not None
    names = record.class_names or ("",)
    ids = np.array([i for i in range(len(names)) if i not in record.untrained])
    c = None if record.class_names is None else ids
    codes = generator.prior.sample(len(ids), c, seed=part_seed(0, 0))
    x = generator.decode(codes)
    items = []
    for k, i in enumerate(ids.tolist()):
        (wave,) = generator.sounds(x[k : k + 1], ITERATIONS)
        rows = int((x[k] > 0).any(2).any(0).nonzero().max()) + 1 if x[k].any() else 1
        items.append(
            {
                "name": names[i],
                "codes": codes[k, 0].tolist(),
                "rows": rows,
                "spectrogram": encoded(x[k, 0, :rows].numpy().astype(np.uint8)),
                "wave": encoded((np.clip(wave, -1, 1) * 32767).astype("<i2")),
            }
        )
        if show is not None:
            show((k + 1) / len(ids))
    card = json.loads((bundles()[name] / "card.json").read_text("utf-8"))
    return {
        "model": name,
        "source": card["source"],
        "rate": record.spectrogram.rate,
        "bands": generator.shape[2],
        "frames": generator.shape[1],
        "codebook": generator.prior.levels,
        "items": items,
    }


def encoded(x: NDArray[Any]) -> str:
    """Returns the bytes of an array in base64."""
    return base64.b64encode(x.tobytes()).decode()
