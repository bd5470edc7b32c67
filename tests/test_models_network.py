"""The exact graph and its ONNX export give what the plain network gives."""

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from appliance.errors import ConfigError
from models import backbones, exact
from models.export import export_exact, session
from models.supersimplenet import SuperSimpleNet, Wiring, upscale_and_blur

SIZES = [(256, 256), (320, 192)]


def random_network(
    size: tuple[int, int], *, wiring: Wiring = "jims", grid: int = 2, hidden: int = 96
) -> tuple[SuperSimpleNet, torch.Tensor]:
    """A network with random weights and statistics, and two inputs for it."""
    torch.manual_seed(1)
    network = SuperSimpleNet(
        backbones.untrained("efficientnet_lite0"), wiring=wiring, grid=grid, hidden=hidden
    )
    for module in (network.feature_adaptor, network.discriminator):
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None and layer.running_var is not None
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
                nn.init.uniform_(layer.weight, 0.5, 2)
                nn.init.normal_(layer.bias)
    pixels = torch.rand(2, 3, *size) * 255
    with torch.no_grad():
        fine, coarse = network.taps(pixels)
    network.standardise_fine.fit(fine)
    network.standardise_coarse.fit(coarse)
    return network.eval(), pixels


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference relative to the largest value."""
    return float(np.abs(one - other).max() / np.abs(other).max())


@pytest.mark.parametrize("size", [*SIZES, (232, 200)])
@pytest.mark.parametrize("wiring", ["jims", "icpr"])
@pytest.mark.parametrize("grid", [1, 2])
def test_exact_graph_equals_plain_network(size, wiring, grid):
    network, pixels = random_network(size, wiring=wiring, grid=grid)
    with torch.inference_mode():
        plain = network(pixels)
        fast = exact.ExactSuperSimpleNet(network, size)(pixels)
    assert plain[0].shape == (2, 1, *size)
    assert plain[1].shape == (2,)
    for one, other in zip(fast, plain, strict=True):
        assert difference(one.numpy(), other.numpy()) < 1e-4


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet18", (128, 256)), ("wide_resnet50_2", (512, 1024))]
)
def test_exact_graph_of_a_resnet(name, channels):
    torch.manual_seed(0)
    backbone = backbones.untrained(name)
    assert backbone.channels == channels
    network = SuperSimpleNet(backbone, hidden=64).eval()
    pixels = torch.rand(1, 3, 96, 64) * 255
    with torch.inference_mode():
        plain = network(pixels)
        fast = exact.ExactSuperSimpleNet(network, (96, 64))(pixels)
    assert difference(fast[0].numpy(), plain[0].numpy()) < 1e-4
    assert abs(float(fast[1] - plain[1])) < 1e-3


@cache
def exported(size: tuple[int, int]) -> tuple[SuperSimpleNet, torch.Tensor, onnx.ModelProto]:
    """A network, pictures for it, and its graph, which takes seconds to make."""
    network, pixels = random_network(size, grid=1)
    return network, pixels, export_exact(network, size)


@pytest.mark.parametrize("size", SIZES)
def test_onnx_equals_torch_on_both_runtimes(size):
    network, pixels, model = exported(size)
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Resize", "BatchNormalization"})
    for batch in (1, 2):
        with torch.inference_mode():
            plain = [out.numpy() for out in network(pixels[:batch])]
        answers = {"onnxruntime": run_onnxruntime(model, pixels[:batch].numpy())}
        answers["openvino"] = run_openvino(model.SerializeToString(), pixels[:batch].numpy())
        for runtime, answer in answers.items():
            for one, other in zip(answer, plain, strict=True):
                assert one.shape == other.shape, runtime
                assert difference(one, other) < 1e-4, runtime


def run_onnxruntime(model: onnx.ModelProto, pixels: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(out) for out in session(model).run(["map", "score"], {"image": pixels})]


def run_openvino(model: bytes, pixels: np.ndarray) -> list[np.ndarray]:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model), "CPU", hints)
    out = compiled(pixels)
    return [np.asarray(out["map"]), np.asarray(out["score"])]


def test_export_names_no_path_of_the_machine_it_ran_on():
    model = exported(SIZES[0])[2].SerializeToString()
    assert b"site-packages" not in model
    assert b"/models/" not in model


def test_blur_reflects_at_the_border():
    """A zero-padded blur would lift a constant negative map at its border."""
    flat = upscale_and_blur(torch.full((1, 1, 32, 32), -3.0), (64, 64))
    assert torch.allclose(flat, torch.full_like(flat, -3.0), atol=1e-5)


def test_parameter_names_are_those_of_the_authors_checkpoints():
    network, _ = random_network((64, 64))
    names = {name for name, _ in network.named_parameters() if not name.startswith("backbone.")}
    assert names == {
        "feature_adaptor.projection.weight", "feature_adaptor.projection.bias",
        "discriminator.seg.0.weight", "discriminator.seg.0.bias",
        "discriminator.seg.1.weight", "discriminator.seg.1.bias",
        "discriminator.seg.3.weight",
        "discriminator.dec_head.0.weight", "discriminator.dec_head.0.bias",
        "discriminator.dec_head.1.weight", "discriminator.dec_head.1.bias",
        "discriminator.fc_score.weight", "discriminator.fc_score.bias",
    }  # fmt: skip


def test_parameters_of_the_reference_network():
    network = SuperSimpleNet(backbones.untrained("wide_resnet50_2"))
    heads = [network.feature_adaptor, network.discriminator]
    assert sum(p.numel() for m in heads for p in m.parameters()) == pytest.approx(8.86e6, rel=1e-3)
    backbone = sum(p.numel() for p in network.backbone.parameters())
    assert backbone == pytest.approx(24.863e6, rel=1e-3)
    assert not any(p.requires_grad for p in network.backbone.parameters())


def test_packaged_weights_know_what_features_are():
    """Random weights would not spread over the range that trained ones are known for."""
    network = backbones.build("efficientnet_lite0")
    torch.manual_seed(0)
    smooth = nn.functional.interpolate(torch.randn(2, 3, 8, 8), size=(128, 128), mode="bilinear")
    with torch.inference_mode():
        fine, coarse = network(smooth)
    assert fine.shape == (2, 40, 16, 16)
    assert coarse.shape == (2, 112, 8, 8)
    assert 2 < fine.std() < 20
    assert not any(p.requires_grad for p in network.parameters())


def test_unknown_backbone_and_foreign_weights_say_what_was_expected(tmp_path):
    with pytest.raises(ConfigError, match=r"expected one of .*resnet50.*, got 'resnext'"):
        backbones.untrained("resnext")
    with pytest.raises(ConfigError, match="expected a file of weights"):
        backbones.packaged_weights("resnet50")
    foreign = tmp_path / "weights.pt"
    torch.save({"conv1.weight": torch.zeros(1)}, foreign)
    with pytest.raises(ConfigError, match=r"weights\.pt: expected the \d+ parameters of resnet18"):
        backbones.build("resnet18", foreign)
    foreign.write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match=r"weights\.pt: expected a torch state dict"):
        backbones.build("resnet18", foreign)
