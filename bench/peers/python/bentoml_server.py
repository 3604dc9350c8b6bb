"""BentoML with adaptive batching.

    MODEL=<path> bentoml serve bentoml_server:Scores --port <port>
"""

import os

import bentoml
import numpy as np

from session import Model

BATCH = 64


@bentoml.service(logging={"access": {"enabled": False}})
class Scores:
    def __init__(self) -> None:
        self.model = Model(os.environ["MODEL"], BATCH)

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=1000, route="/predict")
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model.run(rows.astype(np.float32))
