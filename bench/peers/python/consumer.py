"""A good hand-written consumer in Python: redis-py with hiredis, XREADGROUP COUNT 128, one run a batch, all
predictions and one XACK in one pipeline. A thread of its own asks for the next batches while this one is
computed and committed.

Tried and left: no reading ahead (a fifth slower); the next XREADGROUP in the same pipeline instead of a
thread (as fast); one more thread that waits for the pipelines (slower, they all want the one interpreter
lock).

    consumer.py <redis url> <model path>
"""

import queue
import sys
import threading

import numpy as np
import redis

from session import ROW_FLOATS, Model

BATCH = 128
BLOCK_MS = 5000
# Batches that are read and wait; more would only take others' entries.
AHEAD = 2

url, path = sys.argv[1:3]
batches: queue.Queue = queue.Queue(AHEAD)


def read() -> None:
    # By default the socket gives up after five seconds, when the answer to a BLOCK of five is on its way.
    client = redis.Redis.from_url(url, socket_timeout=None)
    while True:
        reply = client.xreadgroup("bench", "one", {"events": ">"}, count=BATCH, block=BLOCK_MS)
        if reply:
            batches.put(reply[0][1])


def main() -> None:
    model = Model(path, BATCH)
    client = redis.Redis.from_url(url)
    client.xgroup_create("events", "bench", "0", mkstream=True)
    threading.Thread(target=read, daemon=True).start()
    print("ready", flush=True)
    while True:
        entries = batches.get()
        features = b"".join([fields[b"features"] for _, fields in entries])
        scores = model.run(np.frombuffer(features, np.float32).reshape(-1, ROW_FLOATS)).tolist()
        pipeline = client.pipeline(transaction=False)
        for (entry, fields), score in zip(entries, scores):
            # Without `xadd`, which makes a list of a map of them first.
            pipeline.execute_command(
                "XADD", "predictions", "*", "source", entry, "event", fields[b"event"], "key", fields[b"key"],
                "model", "mlp@1", "status", "ok", "outputs", '{"score":%r}' % score,
            )
        pipeline.execute_command("XACK", "events", "bench", *[entry for entry, _ in entries])
        # Raises when any of them failed.
        pipeline.execute()


main()
