"""ONNX Runtime on the towers that `export_onnx` wrote: float32, or int8 by its own dynamic quantisation.

The session has a fixed batch, all graph optimisations and one thread pool. Threads stop spinning at the end of a run,
which cost nothing within it; by default they were seen to spin for 44 ms, into the run of whoever comes next.

int8 is `quantize_dynamic` after `quant_pre_process`, as its documentation recommends, with its defaults: signed weights
with one scale a matrix, unsigned activations scaled at each call, the full range. Measured with image:1 and image:8 of
B/16-224, and decided by the time: the patch embedding stays in float32 (quantised too, all of it took 7 % longer and
was less exact); no scales for each output channel (2 to 5 % longer, 13 % less error); without the preprocessing, some
products of the MAP head stay in float32 (image:1 3 % longer).

Tried and not used: `onnxruntime.transformers.optimizer`. Its fused attention gave the same times, and it takes the tanh
form of GELU for the exact one, so that the embeddings are 7e-4 away.
"""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from npsiglip.bench.worker import Run, Say

# From 1.29 on it reports to its makers, on Linux too, unless this is set first: `disable_telemetry_events` is too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

PROVIDERS = ["CPUExecutionProvider"]
PRODUCTS = ["MatMul", "Gemm"]


def quantize(tower: Path) -> Path:
    """The tower in int8, in a file beside it; written once."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    file = tower.with_name(f"{tower.stem}.int8.onnx")
    if file.exists():
        return file
    bare = tower.with_name(f"{tower.stem}.bare.onnx")
    model = onnx.load(tower, load_external_data=False)
    del model.graph.value_info[:]  # the quantiser turns a Gemm's weights around and trips over their noted shape
    onnx.save(model, bare)
    with tempfile.TemporaryDirectory(dir=tower.parent) as folder:  # a second float32 copy, not kept
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(bare, prepared, skip_symbolic_shape=True, save_as_external_data=True)
        quantize_dynamic(
            prepared, file, op_types_to_quantize=PRODUCTS, weight_type=QuantType.QInt8, use_external_data_format=True
        )
    return file


class ONNXRuntime:
    """One session at a time, that of the last case."""

    def __init__(self, folder: str, dtype: str, threads: int, say: Say) -> None:
        self.folder, self.dtype, self.threads, self.say = Path(folder), dtype, threads, say
        self.session: Any = None
        self.about = {"onnxruntime": onnxruntime.__version__, "python": platform.python_version()}

    def _options(self, batch: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_free_dimension_override_by_name("batch", batch)
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def prepare(self, case: str, inputs: Any) -> Run:
        """Quantise the tower, if that is wanted, and make a session for this batch."""
        self.session = None  # frees its weights
        tower = self.folder / f"{case.partition(':')[0]}.onnx"
        if self.dtype == "int8":
            self.say(f"quantising {tower.name}")
            tower = quantize(tower)
        self.session = onnxruntime.InferenceSession(tower, self._options(len(inputs)), providers=PROVIDERS)

        def run() -> Any:
            return self.session.run(None, {"inputs": inputs})[0]

        return Run(run, setting="dynamic" if self.dtype == "int8" else "")


def load(folder: str, dtype: str, threads: int, say: Say) -> ONNXRuntime:
    """Load from a folder of exported towers; they need not be there before a case is prepared.

    Raises:
        ValueError: a dtype that is neither float32 nor int8.
    """
    if dtype not in ("float32", "int8"):
        raise ValueError(f"ONNX Runtime computes in float32 or int8 on a CPU, not in {dtype}")
    return ONNXRuntime(folder, dtype, threads, say)
