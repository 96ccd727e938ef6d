"""Bare FastAPI with the same model: validated by pydantic, scored by LightGBM, answered. What anybody would write first."""

from __future__ import annotations

import os
from typing import Any

import lightgbm as lgb
import numpy as np
from fastapi import FastAPI
from pydantic import create_model

booster = lgb.Booster(model_file=os.environ["MODEL"])
NAMES = booster.feature_name()
FIELDS: dict[str, Any] = dict.fromkeys(NAMES, (float, ...))
Application: Any = create_model("Application", **FIELDS)
app = FastAPI()


@app.post("/predict")
async def predict(application: Application) -> dict[str, float]:
    row = np.array([[getattr(application, n) for n in NAMES]])
    return {"score": float(booster.predict(row, num_threads=1)[0])}


@app.post("/explain")
async def explain(application: Application) -> dict[str, Any]:
    row = np.array([[getattr(application, n) for n in NAMES]])
    parts = booster.predict(row, pred_contrib=True, num_threads=1)[0]
    return {"score": float(booster.predict(row, num_threads=1)[0]), "contributions": parts.tolist()}
