"""A custom runtime of MLServer; an ONNX runtime for it is not on PyPI. MLServer itself merges the requests of
a batch into one. Named by model-settings.json, which bench/http writes.
"""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from session import Model


class Scores(MLModel):
    async def load(self) -> bool:
        self._model = Model(self.settings.parameters.uri, self.settings.max_batch_size)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        scores = self._model.run(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output("score", scores.reshape(-1, 1))
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
