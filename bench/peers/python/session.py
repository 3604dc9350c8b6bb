"""The same ONNX Runtime session for every Python peer: one thread, sequential, as Subito's workers run it."""

import numpy as np
import onnxruntime

ROW_FLOATS = 64
ROW_BYTES = 4 * ROW_FLOATS


class Model:
    def __init__(self, path: str, rows_max: int) -> None:
        """Loads the model and warms it for batches up to `rows_max`."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._outputs = [self._session.get_outputs()[0].name]
        for rows in (1, rows_max):
            for _ in range(20):
                self.run(np.zeros((rows, ROW_FLOATS), np.float32))

    def run(self, rows: np.ndarray) -> np.ndarray:
        """Takes float32 [rows, 64], gives float32 [rows]."""
        return self._session.run(self._outputs, {self._input: rows})[0].reshape(-1)
