"""No library that we load keeps a diary of its use or tells anybody: the home stays empty."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN_A_GRAPH = """
import importlib, sys
importlib.import_module(sys.argv[1])
import onnxruntime
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [value("x")], [value("y")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
)
del session
"""


@pytest.mark.parametrize(
    "module",
    ["appliance.engine_onnx", "appliance.engine_openvino", "models.export", "tools.bench_graph"],
)
def test_a_runtime_leaves_nothing_in_the_home(module: str, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", RUN_A_GRAPH, module], env=environment, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
