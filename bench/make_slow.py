"""Writes bench/overload/models/slow/1/model.onnx: about a millisecond of work a row, in a few kilobytes.

    pip install onnx==1.23.2 numpy==2.4.6
    python bench/make_slow.py

Three convolutions over a long signal: a row of 64 values, repeated. What a batch takes is linear in its rows,
and there is next to nothing beside it: inference is the bottleneck, whatever brings the events.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

WIDTH, REPEATS, CHANNELS, KERNEL = 64, 64, 16, 9

random = np.random.default_rng(13)
nodes, initializers = [], []


def constant(name: str, value: np.ndarray) -> str:
    initializers.append(numpy_helper.from_array(value, name))
    return name


def node(kind: str, inputs: list[str], output: str, **attributes) -> str:
    nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
    return output


def convolution(name: str, x: str, channels: int) -> str:
    scale = (2 / (channels * KERNEL)) ** 0.5
    weights = constant(f"{name}.w", random.normal(0, scale, (CHANNELS, channels, KERNEL)).astype(np.float32))
    return node("Relu", [node("Conv", [x, weights], name, pads=[KERNEL // 2] * 2)], f"{name}.relu")


signal = node("Unsqueeze", ["signal", constant("channel", np.array([1], np.int64))], "channels")
x = node("Tile", [signal, constant("repeats", np.array([1, 1, REPEATS], np.int64))], "long")
for layer, channels in enumerate([1, CHANNELS, CHANNELS]):
    x = convolution(f"conv{layer}", x, channels)
means = node("ReduceMean", [x], "means", axes=[2], keepdims=0)
weights = constant("w", random.normal(0, 1, (CHANNELS, 1)).astype(np.float32))
node("Sigmoid", [node("Gemm", [means, weights], "sum")], "score")

graph = helper.make_graph(
    nodes,
    "slow",
    [helper.make_tensor_value_info("signal", TensorProto.FLOAT, ["batch", WIDTH])],
    [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
    initializers,
)
model = helper.make_model(
    graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="subito"
)
checker.check_model(model, full_check=True)
path = Path(__file__).parent / "overload" / "models" / "slow" / "1" / "model.onnx"
path.parent.mkdir(parents=True, exist_ok=True)
save(model, path)
