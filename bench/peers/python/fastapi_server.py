"""FastAPI on uvicorn, as one writes it by hand when it has to be fast: the body is parsed by orjson instead
of validated field by field, and the model runs in the event loop, for 20 us of it would not pay for a thread.

    MODEL=<path> uvicorn fastapi_server:app --port <port>
"""

import os

import numpy as np
import orjson
from fastapi import FastAPI, Request, Response

from session import Model

model = Model(os.environ["MODEL"], 64)
app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Response:
    rows = np.array(orjson.loads(await request.body())["rows"], np.float32)
    body = orjson.dumps({"scores": model.run(rows)}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")
