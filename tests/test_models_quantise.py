"""int8 by explicit nodes: what is quantised, what stays float, what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from appliance.errors import ArtefactError
from models.export import session
from models.graphs import constants_of, part_of
from models.quantise import Quantiser, choose
from models.quantise_command import Accuracy, change, compare
from tests.networks import EXACT, as_network, exact_network


def inputs(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(0, 255, (1, 3, *EXACT)).astype(np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def quantiser() -> Quantiser:
    return Quantiser(exact_network(), inputs(3))


def answers(model: onnx.ModelProto, pixels: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(out) for out in session(model).run(["map", "score"], {"image": pixels})]


def test_every_convolution_stands_between_quantise_and_dequantise(quantiser: Quantiser) -> None:
    model = quantiser.network(quantiser.layers)
    makers = {name: node for node in model.graph.node for name in node.output}
    convolutions = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
    assert len(quantiser.layers) > 30
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for name in set(convolutions) - set(quantiser.layers):  # those at the logit map stay float
        assert 1 in shapes[convolutions[name].input[1]][:2]
    for node in (convolutions[name] for name in quantiser.layers):
        for value in node.input[:2]:
            assert makers[value].op_type == "DequantizeLinear", node.name
        # TensorRT takes no int32 bias behind a dequantise node.
        assert all(value not in makers for value in node.input[2:])
    # Residual sums, constant products and the statistics read what was not rounded.
    for node in model.graph.node:
        if node.name not in quantiser.layers:
            for value in node.input:
                assert value not in makers or makers[value].op_type != "DequantizeLinear", node.name


def test_scales_are_symmetric(quantiser: Quantiser) -> None:
    model = quantiser.network(quantiser.layers)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = tensors[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()


@pytest.mark.parametrize(("gain", "padding", "low"), [(0.1, 0, -3), (0.1, 1, 0), (0.001, 0, 0)])
def test_a_clip_before_a_convolution_is_moved_around_zero_where_that_wins_a_bit(
    gain: float, padding: int, low: float
) -> None:
    """255 steps from -3 to 3 instead of 128 from 0 to 6; not where zeros are padded, nor where no
    value passes the middle. The function is the same."""
    rng = np.random.default_rng(0)
    kernel = 1 + 2 * padding
    constants = {
        "first": (gain * rng.uniform(0.2, 1, (4, 3, 1, 1))).astype(np.float32),
        "offset": np.full(4, -1e3 * gain * gain, np.float32),
        "nought": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "second": rng.normal(0, 1, (2, 4, kernel, kernel)).astype(np.float32),
        "all": np.array([1, 2, 3], np.int64),
        "channel": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["image", "first", "offset"], ["a"], name="one"),
        helper.make_node("Clip", ["a", "nought", "six"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], name="two", pads=[padding] * 4),
        helper.make_node("ReduceMean", ["c", "channel"], ["map"], keepdims=1),
        helper.make_node("ReduceMax", ["map", "all"], ["score"], keepdims=0),
    ]
    whole = as_network(nodes, constants_of(constants), (8, 8))
    images = [rng.uniform(0, 255, (1, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    small = Quantiser(whole, images).network(["two"])
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in small.graph.initializer}
    clip = next(node for node in small.graph.node if node.op_type == "Clip")
    assert [float(tensors[name]) for name in clip.input[1:]] == [low, low + 6]
    one, other = answers(whole, images[0])[0], answers(small, images[0])[0]
    assert np.abs(one - other).max() < 0.03 * np.ptp(one)


def test_layers_are_fitted_to_what_was_rounded_before_them(quantiser: Quantiser) -> None:
    """On the images of the fit the mean answer of the last layer is that of the float network."""
    last = next(n for n in exact_network().graph.node if n.name == quantiser.layers[-1])
    whole, small = (
        np.stack([
            np.asarray(session(part_of(model, ("image",), last.output)).run(None, {"image": x})[0])
            for x in inputs(3)
        ])
        for model in (exact_network(), quantiser.network(quantiser.layers))
    )  # fmt: skip
    assert not np.array_equal(whole, small)
    assert np.abs((whole - small).mean(axis=(0, 1, 3, 4))).max() < 0.01 * whole.std()


def test_the_answers_stay_near_and_the_contract_stays(quantiser: Quantiser) -> None:
    pixels = inputs(1, seed=5)[0]
    whole = answers(exact_network(), pixels)
    small = answers(quantiser.network(quantiser.layers), pixels)
    for one, other in zip(whole, small, strict=True):
        assert one.shape == other.shape
        assert other.dtype == np.float32
    assert np.abs(whole[0] - small[0]).max() < 0.6 * np.ptp(whole[0])
    assert np.abs(whole[0] - small[0]).max() > 0
    assert quantiser.network([]) is exact_network()


def test_the_worst_layers_are_left_out_until_the_drift_is_within_its_limit(
    quantiser: Quantiser,
) -> None:
    """Two layers cost much, all others little: just these two stay float."""
    worst = set(quantiser.layers[3:5])

    def drift(model: onnx.ModelProto) -> float:
        makers = {name: node for node in model.graph.node for name in node.output}
        quantised = {
            node.name
            for node in model.graph.node
            if node.op_type == "Conv" and node.input[1] in makers
        }
        return 0.001 * len(quantised) + 1.0 * len(quantised & worst)

    seen: list[float] = []
    model, left_out, reached = choose(quantiser, drift, 0.1, seen.append)
    assert set(left_out) == worst
    assert reached == drift(model) < 0.1
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert choose(quantiser, drift, 5.0, seen.append)[1] == []
    with pytest.raises(ArtefactError, match="a drift of at most"):
        choose(quantiser, drift, 1e-6, seen.append)


def margins(shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (np.concatenate([rng.normal(0, 1, 300), rng.normal(4, 1, 100)]) + shift).astype(
        np.float32
    )


LABELS = [0] * 300 + [1] * 100


def accuracy(**figures: float) -> Accuracy:
    return Accuracy(
        decides="map_max", images=400, left_out=(), layers=39, speed=0.5, golden_deviation=0.1,
        **figures,
    )  # fmt: skip


def test_no_change_is_no_objection() -> None:
    figures = compare(LABELS, margins(), margins(), (1.5, 2.5))
    assert figures["flips"] == figures["margin_p99_sigmas"] == 0
    assert figures["auroc_fp32"] == figures["auroc_int8"] > 0.98
    assert accuracy(**figures).objections() == []


def test_every_limit_objects_in_words() -> None:
    shifted = accuracy(**compare(LABELS, margins(), margins(0.5), (1.5, 2.5))).objections()
    assert any(line.startswith("p99 of the margin's change") for line in shifted)
    assert any(line.startswith("flipped verdicts") for line in shifted)
    noise = np.random.default_rng(1).normal(0, 4, 400).astype(np.float32)
    noisy = accuracy(**compare(LABELS, margins(), margins() + noise, (1.5, 2.5))).objections()
    assert any(line.startswith("AUROC drop: expected at most 0.01") for line in noisy)


def test_good_images_without_spread_prove_nothing() -> None:
    same = np.full(10, 3.0, np.float32)
    assert change(same, same, same) == np.inf


def test_a_bundle_that_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    from models.quantise_command import quantise_bundle
    from tests.networks import trained_like_bundle

    bundle = trained_like_bundle(tmp_path / "b")
    with pytest.raises(ArtefactError, match="limits and held-out images"):
        quantise_bundle(bundle, None, tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
