"""LitServe with batching: requests that are there together, up to 64, are one run.

    litserve_server.py <port> <model path>
"""

import sys

import litserve
import numpy as np

from session import Model

BATCH = 64
port, path = int(sys.argv[1]), sys.argv[2]


class Scores(litserve.LitAPI):
    def setup(self, device):
        self.model = Model(path, BATCH)

    def decode_request(self, request):
        return np.array(request["rows"], np.float32)

    def batch(self, inputs):
        return np.concatenate(inputs), np.cumsum([len(rows) for rows in inputs])[:-1]

    def predict(self, batch):
        rows, ends = batch
        return np.split(self.model.run(rows), ends)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return {"scores": output.tolist()}


if __name__ == "__main__":
    api = Scores(max_batch_size=BATCH, batch_timeout=0.001)
    # The queue that its documentation recommends beyond a hundred requests a second.
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")
