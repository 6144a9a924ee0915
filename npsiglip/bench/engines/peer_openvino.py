"""OpenVINO on the towers that `export_onnx` wrote: float32 or bfloat16, compiled for a fixed batch and for latency.

Tried with one and eight images of B/16-224, all equal within the noise: its own conversion from PyTorch instead of
ONNX, any batch instead of a fixed one, threads pinned or not, the hint for throughput with one stream, denormals
flushed. Its int8 needs another package and calibration pictures (NNCF), and is not timed here.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

from npsiglip.bench.worker import Run, Say

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # missing; or the next line reports to its makers
import openvino  # noqa: E402

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINO:
    """One compiled tower at a time, that of the last case."""

    def __init__(self, folder: str, dtype: str, threads: int) -> None:
        self.folder, self.core = Path(folder), openvino.Core()
        self.request: Any = None
        self.settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        self.about = {"openvino": openvino.__version__, "python": platform.python_version()}

    def prepare(self, case: str, inputs: Any) -> Run:
        """Compile the tower for this batch; the setting is the precision that it took, which the CPU decides too."""
        self.request = None  # frees its weights
        model = self.core.read_model(self.folder / f"{case.partition(':')[0]}.onnx")
        model.reshape(inputs.shape)
        compiled = self.core.compile_model(model, "CPU", self.settings)
        self.request = compiled.create_infer_request()
        self.request.set_input_tensor(openvino.Tensor(inputs))

        def run() -> Any:
            self.request.infer()
            return self.request.get_output_tensor().data.copy()

        return Run(run, setting=compiled.get_property("INFERENCE_PRECISION_HINT").to_string())


def load(folder: str, dtype: str, threads: int, say: Say) -> OpenVINO:
    """Load from a folder of exported towers; they need not be there before a case is prepared."""
    return OpenVINO(folder, dtype, threads)
