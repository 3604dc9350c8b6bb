"""Ray Serve with @serve.batch, in the mode for high throughput that its documentation describes: HAProxy in
front of the replica and the settings of RAY_SERVE_THROUGHPUT_OPTIMIZED, both from the environment.

    ray_server.py <port> <model path>
"""

import os
import signal
import sys

import numpy as np
import orjson
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

BATCH = 64
port, path = int(sys.argv[1]), sys.argv[2]
here = os.path.dirname(os.path.abspath(__file__))


@serve.deployment(num_replicas=1, max_ongoing_requests=256, graceful_shutdown_timeout_s=1)
class Scores:
    def __init__(self, path: str, here: str) -> None:
        # A replica is a process of its own, started elsewhere.
        sys.path.insert(0, here)
        from session import Model

        self.model = Model(path, BATCH)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.001)
    async def run(self, inputs: list) -> list:
        ends = np.cumsum([len(rows) for rows in inputs])[:-1]
        return np.split(self.model.run(np.concatenate(inputs)), ends)

    async def __call__(self, request: Request) -> Response:
        rows = np.array(orjson.loads(await request.body())["rows"], np.float32)
        body = orjson.dumps({"scores": await self.run(rows)}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")


# Of the machine's cores as many as its parts want: they are not kept from one another.
ray.init(num_cpus=8, include_dashboard=False, logging_level="warning")
serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
serve.run(Scores.bind(path, here), route_prefix="/predict")
signal.sigwait({signal.SIGTERM, signal.SIGINT})
serve.shutdown()
ray.shutdown()
