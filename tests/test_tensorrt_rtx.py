"""Our graphs under a strongly typed TensorRT-family parser and builder, on a machine without a GPU.

TensorRT for RTX builds real plans anywhere; only running one needs a GPU.
"""

from functools import cache

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from appliance.engine_tensorrt_build import Builder, fix_batch, network_precisions
from appliance.errors import ArtefactError
from appliance.head import merged_network
from models.export import session
from models.quantise import Quantiser
from tests.networks import EXACT, contract_for, exact_network
from tests.test_models_forms import deployed

trt = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="tensorrt-rtx-cu13 has wheels for Linux on x86-64 alone"
)

SIZE = EXACT


def for_ampere(config) -> None:
    """Without a GPU to ask, the builder must be told what to build for."""
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)


@cache
def network(precision: str) -> onnx.ModelProto:
    if precision != "int8":
        return exact_network(precision)
    rng = np.random.default_rng(0)
    inputs = (rng.uniform(0, 255, (1, 3, *SIZE)).astype(np.float32) for _ in range(3))
    quantiser = Quantiser(exact_network(), inputs)
    return quantiser.network(quantiser.layers)


def merged(precision: str) -> onnx.ModelProto:
    return merged_network(network(precision), contract_for(SIZE), 200, 300, 1, "float")


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_graph_that_runs_is_parsed_and_built(precision: str, batch: int) -> None:
    phases: list[str] = []
    builder = Builder(trt, phases.append)
    graph = merged(precision)
    parsed = builder.network(fix_batch(graph, 1) if batch == 1 else graph, precision)
    assert network_precisions(trt, parsed)[precision] > 40
    plan, _ = builder.plan(parsed, batch, configure=for_ampere)
    assert len(plan) > 1_000_000
    assert phases


@pytest.mark.parametrize("form", ["last", "winograd"])
def test_another_form_of_the_graph_is_parsed_and_built(form: str) -> None:
    builder = Builder(trt, lambda phase: None)
    graph = onnx.load_model_from_string(deployed(form))
    parsed = builder.network(fix_batch(graph, 1), "fp32")
    plan, _ = builder.plan(parsed, 1, configure=for_ampere)
    assert len(plan) > 1_000_000


def test_half_is_half_the_size() -> None:
    sizes = [
        len(Builder(trt).plan(*_parsed(precision), configure=for_ampere)[0])
        for precision in ("fp32", "fp16")
    ]
    assert sizes[1] < 0.7 * sizes[0]


def _parsed(precision: str):
    return Builder(trt).network(fix_batch(merged(precision), 1), precision), 1


def test_another_precision_than_asked_for_fails_before_anything_is_built() -> None:
    for asked, given in (("fp16", "fp32"), ("fp32", "fp16"), ("int8", "fp32")):
        with pytest.raises(ArtefactError, match=f"convolutions in {asked}"):
            Builder(trt).network(fix_batch(merged(given), 1), asked)


def test_an_operator_that_tensorrt_has_not_fails_by_name() -> None:
    """The head of the CPU runtimes pads and multiplies bytes: TensorRT does neither."""
    graph = merged_network(network("fp32"), contract_for(SIZE), 200, 300, 1, "integer")
    with pytest.raises(ArtefactError, match=r"operators that TensorRT has, got .*UINT8"):
        Builder(trt).network(graph, "fp32")
    with pytest.raises(ArtefactError, match="operators that TensorRT has"):
        foreign = helper.make_graph(
            [helper.make_node("Telepathy", ["x"], ["y"], domain="nobody")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("nobody", 1)]
        model = helper.make_model(foreign, opset_imports=opsets, ir_version=10)
        Builder(trt).network(model, "fp32")


def test_the_runtime_has_the_calls_that_a_plan_is_asked_by() -> None:
    """On a GPU alone a plan can be loaded; the names are the family's."""
    for name in ("name", "mode", "dtype", "shape", "profile_shape"):
        assert hasattr(trt.ICudaEngine, f"get_tensor_{name}"), name
    assert hasattr(trt.ICudaEngine, "create_execution_context")
    for name in ("set_input_shape", "set_tensor_address", "execute_async_v3"):
        assert hasattr(trt.IExecutionContext, name), name


def test_a_batch_that_the_network_has_not_is_refused() -> None:
    builder = Builder(trt)
    with pytest.raises(ArtefactError, match="a batch of 4, got 1"):
        builder.plan(builder.network(fix_batch(merged("fp32"), 1), "fp32"), 4)


def test_half_precision_answers_nearly_the_same() -> None:
    """On the CPU, where ONNX Runtime rounds every result to half precision."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 200, 300, 1), np.uint8)
    answers = [
        [
            np.asarray(out)
            for out in session(
                merged_network(network(precision), contract_for(SIZE), 200, 300, 1)
            ).run(["map", "score"], {"frame": frames})
        ]
        for precision in ("fp32", "fp16")
    ]
    for whole, half in zip(*answers, strict=True):
        assert half.dtype == np.float32
        assert np.abs(whole - half).max() < 0.02 * np.ptp(answers[0][0])
