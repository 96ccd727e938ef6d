"""The same model behind BentoML, as its documentation has it."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import lightgbm as lgb
import numpy as np


@bentoml.service(workers=1)
class Lending:
    """One worker, as everybody here."""

    def __init__(self) -> None:
        self.booster = lgb.Booster(model_file=os.environ["MODEL"])
        self.names = self.booster.feature_name()

    @bentoml.api
    async def predict(self, application: dict[str, float]) -> dict[str, Any]:
        row = np.array([[application[n] for n in self.names]])
        return {"score": float(self.booster.predict(row, num_threads=1)[0])}

    @bentoml.api
    async def explain(self, application: dict[str, float]) -> dict[str, Any]:
        row = np.array([[application[n] for n in self.names]])
        parts = self.booster.predict(row, pred_contrib=True, num_threads=1)[0]
        return {"score": float(self.booster.predict(row, num_threads=1)[0]), "contributions": parts.tolist()}
