"""Writes bench/gpu/models/encoder/1/model.onnx: a small transformer encoder over a session of 32 songs.

    pip install onnx==1.23.2 numpy==2.4.6
    python bench/gpu/make_encoder.py

Two layers, 128 wide, four heads, a vocabulary of 512: about 13 million multiplications a row. What it
computes means nothing; how long that takes is the same as for trained weights. To keep the file small, each
matrix of weights is written as the sine of the product of a column and a row, which ONNX Runtime folds into a
constant when it loads the model (at every level of optimisation but `disabled`).
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

SONGS, WIDTH, HEADS, LAYERS, INNER, VOCABULARY = 32, 128, 4, 2, 512, 512

random = np.random.default_rng(11)
nodes, initializers = [], []


def constant(name: str, value: np.ndarray) -> str:
    initializers.append(numpy_helper.from_array(value, name))
    return name


def node(kind: str, inputs: list[str], output: str, **attributes) -> str:
    nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
    return output


def weights(name: str, rows: int, columns: int) -> str:
    """A rows x columns matrix of about the size that training begins with."""
    column = constant(f"{name}.column", random.uniform(1, 100, (rows, 1)).astype(np.float32))
    row = constant(f"{name}.row", random.uniform(1, 100, (1, columns)).astype(np.float32))
    scale = constant(f"{name}.scale", np.float32((2 / rows) ** 0.5))
    sine = node("Sin", [node("MatMul", [column, row], f"{name}.product")], f"{name}.sin")
    return node("Mul", [sine, scale], name)


def linear(name: str, x: str, rows: int, columns: int) -> str:
    bias = constant(f"{name}.bias", random.normal(0, 0.02, columns).astype(np.float32))
    return node("Add", [node("MatMul", [x, weights(f"{name}.w", rows, columns)], f"{name}.xw"), bias], name)


def normalised(name: str, x: str) -> str:
    scale = constant(f"{name}.scale", np.ones(WIDTH, np.float32))
    bias = constant(f"{name}.bias", np.zeros(WIDTH, np.float32))
    return node("LayerNormalization", [x, scale, bias], name, axis=-1)


def attention(name: str, x: str) -> str:
    split = constant(f"{name}.split", np.array([0, SONGS, HEADS, WIDTH // HEADS], np.int64))
    joined = constant(f"{name}.joined", np.array([0, SONGS, WIDTH], np.int64))
    root = constant(f"{name}.root", np.float32((WIDTH // HEADS) ** -0.5))

    def heads(which: str, order: list[int]) -> str:
        parts = node("Reshape", [linear(f"{name}.{which}", x, WIDTH, WIDTH), split], f"{name}.{which}.split")
        return node("Transpose", [parts], f"{name}.{which}.heads", perm=order)

    query, key, value = heads("q", [0, 2, 1, 3]), heads("k", [0, 2, 3, 1]), heads("v", [0, 2, 1, 3])
    scores = node("Mul", [node("MatMul", [query, key], f"{name}.qk"), root], f"{name}.scores")
    mixed = node("MatMul", [node("Softmax", [scores], f"{name}.softmax", axis=-1), value], f"{name}.mixed")
    side = node("Transpose", [mixed], f"{name}.side", perm=[0, 2, 1, 3])
    return linear(f"{name}.out", node("Reshape", [side, joined], f"{name}.joint"), WIDTH, WIDTH)


def layer(name: str, x: str) -> str:
    x = node("Add", [x, attention(f"{name}.attention", normalised(f"{name}.norm1", x))], f"{name}.sum1")
    wide = linear(f"{name}.wide", normalised(f"{name}.norm2", x), WIDTH, INNER)
    wide = node("Relu", [wide], f"{name}.relu")
    return node("Add", [x, linear(f"{name}.narrow", wide, INNER, WIDTH)], f"{name}.sum2")


hidden = node("Gather", [weights("embedding", VOCABULARY, WIDTH), "songs"], "embedded")
for i in range(LAYERS):
    hidden = layer(f"layer{i}", hidden)
axes = constant("axes", np.array([1], np.int64))
mean = node("ReduceMean", [normalised("norm", hidden), axes], "mean", keepdims=0)
node("Sigmoid", [linear("head", mean, WIDTH, 1)], "score")

graph = helper.make_graph(
    nodes,
    "encoder",
    [helper.make_tensor_value_info("songs", TensorProto.INT64, ["batch", SONGS])],
    [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
    initializers,
)
model = helper.make_model(
    graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, producer_name="subito"
)
checker.check_model(model, full_check=True)
path = Path(__file__).parent / "models" / "encoder" / "1" / "model.onnx"
path.parent.mkdir(parents=True, exist_ok=True)
save(model, path)
