"""LightGBM's own scores for single rows, through its C API: half of what its Python package takes, and the same bits.

The package itself is not imported: it imports scikit-learn and pandas for its wrappers, more than a second of a server's start.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from workflows.serve.trees import Floats

SCORE, RAW, CONTRIBUTIONS = 0, 1, 3  # the C API's kinds of prediction
FLOAT64 = 1


class NotAModel(ValueError):
    """LightGBM cannot read the text, or fails in predicting."""


@cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("lightgbm")
    if spec is None or not spec.submodule_search_locations:
        raise NotAModel("LightGBM is not installed")
    library = ctypes.CDLL(str(Path(spec.submodule_search_locations[0]) / "lib" / "lib_lightgbm.so"))
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    return library


def _call(name: str, *arguments: object) -> None:
    if getattr(_library(), name)(*arguments):
        raise NotAModel(f"{name}: {_library().LGBM_GetLastError().decode(errors='replace')}")


class Scorer:
    """A loaded model. One thread at a time: a row is written to the place that LightGBM reads."""

    def __init__(self, text: str, features: int) -> None:
        self._handle = ctypes.c_void_p()
        self._features = features
        _call("LGBM_BoosterLoadModelFromString", text.encode(), ctypes.byref(ctypes.c_int()), ctypes.byref(self._handle))
        self.score = self._one(SCORE)
        """The probability that `Booster.predict` gives for a row, bit for bit."""

    def raw(self, row: Sequence[float]) -> float:
        """The score in log-odds."""
        return self._one(RAW)(row)

    def contributions(self) -> Callable[[Sequence[float]], Floats]:
        """A function that gives what `Booster.predict(pred_contrib=True)` gives for a row: slow, for where tables are too large."""
        ask, found = self._prepared(CONTRIBUTIONS, self._features + 1)

        def contributions(row: Sequence[float]) -> Floats:
            ask(row)
            return found[:-1].copy()

        return contributions

    def _one(self, kind: int) -> Callable[[Sequence[float]], float]:
        ask, found = self._prepared(kind, 1)

        def one(row: Sequence[float]) -> float:
            ask(row)
            return float(found[0])

        return one

    def _prepared(self, kind: int, size: int) -> tuple[Callable[[Sequence[float]], None], Floats]:
        config, count = ctypes.c_void_p(), ctypes.c_int64()
        settings = (kind, 0, -1, FLOAT64, ctypes.c_int32(self._features), b"num_threads=1", ctypes.byref(config))
        _call("LGBM_BoosterPredictForMatSingleRowFastInit", self._handle, *settings)
        row, found = np.zeros(self._features), np.zeros(size)
        places = (config, row.ctypes.data_as(ctypes.c_void_p), ctypes.byref(count), found.ctypes.data_as(ctypes.c_void_p))
        predict = _library().LGBM_BoosterPredictForMatSingleRowFast

        def ask(values: Sequence[float]) -> None:
            row[:] = values
            if predict(*places):
                raise NotAModel(_library().LGBM_GetLastError().decode(errors="replace"))

        return ask, found
