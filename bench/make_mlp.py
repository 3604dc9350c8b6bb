"""Writes bench/models/mlp/1/model.onnx, the benchmarks' yardstick: a seeded 64-256-128-1 perceptron.

    pip install onnx==1.23.2 numpy==2.4.6
    python bench/make_mlp.py
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

SIZES = [64, 256, 128, 1]

random = np.random.default_rng(7)
nodes, weights, last = [], [], "features"
for i, (width, height) in enumerate(zip(SIZES, SIZES[1:])):
    w = random.normal(0, (2 / width) ** 0.5, (width, height)).astype(np.float32)
    b = random.normal(0, 0.1, height).astype(np.float32)
    weights += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
    final = i == len(SIZES) - 2
    nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"h{i}"]))
    nodes.append(helper.make_node("Sigmoid" if final else "Relu", [f"h{i}"], ["score" if final else f"r{i}"]))
    last = f"r{i}"

graph = helper.make_graph(
    nodes,
    "mlp",
    [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", SIZES[0]])],
    [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
    weights,
)
model = helper.make_model(
    graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="subito"
)
checker.check_model(model, full_check=True)
path = Path(__file__).parent / "models" / "mlp" / "1" / "model.onnx"
path.parent.mkdir(parents=True, exist_ok=True)
save(model, path)
