"""Thresholds of the combined anomaly score, chosen from ordinary images and saved as JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nextpixel.errors import UserError
from nextpixel.evaluation.typicality import FEATURES, Ordinary
from nextpixel.model_folders import find
from nextpixel.utils.files import replace_file
from nextpixel.utils.reading import mapping, read_json, read_regular, refusing_damage

__all__ = ["Threshold", "model_digest"]


def model_digest(name: str | Path) -> str:
    """Returns a digest of a saved model; its `config.json` names the weights by their hash.

    Raises:
        UserError: There is no such model.
    """
    return hashlib.sha256(read_regular(find(name) / "config.json")).hexdigest()


@dataclass(frozen=True, eq=False)
class Threshold:
    """A threshold of the combined score, with the ordinary images that it was chosen from.

    Attributes:
        ordinary: Their features.
        quantile: The share of them that lies below the threshold.
        what: What they are, in words.
        model: The digest of the model, see `model_digest`.
        value: The threshold; an image above it is anomalous.
    """

    ordinary: Ordinary
    quantile: float
    what: str
    model: str
    value: float

    @classmethod
    def fit(cls, ordinary: Ordinary, quantile: float, what: str, model: str) -> Threshold:
        """Chooses the threshold.

        Raises:
            UserError: The quantile does not lie between 0 and 1.
        """
        return cls(ordinary, quantile, what, model, ordinary.threshold(quantile))

    def save(self, path: Path) -> None:
        """Writes the threshold as JSON."""
        record = {
            "score": "combined_score",
            "threshold": self.value,
            "quantile": self.quantile,
            "ordinary": self.what,
            "model": self.model,
            "features": list(FEATURES),
            "ordinary_features": self.ordinary.features.tolist(),
        }
        replace_file(path, f"{json.dumps(record)}\n".encode())

    @classmethod
    def load(cls, path: Path, model: str) -> Threshold:
        """Reads a threshold that was fitted for a model.

        Args:
            path: A file written by `save`.
            model: The digest of the model in use.

        Raises:
            UserError: It is no such file, or it was fitted for another model.
        """
        if not path.is_file():
            raise UserError(
                f"There is no threshold {path}: make one with --threshold fit --save {path}."
            )
        with refusing_damage(path, "threshold", "make another with --threshold fit"):
            record = mapping(read_json(path))
            features = np.array(record["ordinary_features"], np.float64)
            if record["features"] != list(FEATURES) or features.shape[1:] != (len(FEATURES),):
                raise ValueError("other features")
            numbers = [float(record["threshold"]), float(record["quantile"])]
            if not (np.isfinite(features).all() and np.isfinite(numbers).all()):
                raise ValueError("a number is not finite")
            found = cls(
                Ordinary(features),
                float(record["quantile"]),
                str(record["ordinary"]),
                str(record["model"]),
                float(record["threshold"]),
            )
        if found.model != model:
            raise UserError(
                f"{path} was fitted for another model: make one for this model with --threshold "
                "fit."
            )
        return found
