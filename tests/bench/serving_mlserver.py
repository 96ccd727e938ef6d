"""A runtime of MLServer that also answers with contributions; the model alone is served by MLServer's own LightGBM runtime."""

from __future__ import annotations

import os

import lightgbm as lgb
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Explained(MLModel):
    """Contributions of each row, by LightGBM."""

    async def load(self) -> bool:
        self.booster = lgb.Booster(model_file=os.environ["MODEL"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        row = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        parts = self.booster.predict(row, pred_contrib=True, num_threads=1)
        scores = self.booster.predict(row, num_threads=1)
        outputs = [NumpyCodec.encode_output("contributions", parts), NumpyCodec.encode_output("score", scores)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
