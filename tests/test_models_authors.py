"""The authors' checkpoints: they load by their names and give what an independent network gives."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from appliance.__main__ import main
from appliance.bundle import golden_outputs, load_bundle
from appliance.errors import ArtefactError, ConfigError
from models import evaluate, export_model, weights
from models.checkpoints import put_heads, read_heads, save_heads
from models.exact import ExactSuperSimpleNet
from models.export_model import load_network
from tests.naive_network import Weights, features_of, heads_of, random_weights

SIZES = [(256, 256), (640, 232), (320, 192)]


@pytest.fixture(scope="module")
def drawn() -> tuple[Weights, Weights]:
    """Backbone and heads, both random."""
    return random_weights(hidden=1024, seed=0)


@pytest.fixture(scope="module")
def files(drawn, tmp_path_factory) -> tuple[Path, Path]:
    """weights.pt of the authors and a torchvision file."""
    folder = tmp_path_factory.mktemp("weights")
    backbone, heads = drawn
    torch.save(backbone, folder / "wide.pth")
    torch.save(heads, folder / "weights.pt")
    return folder / "weights.pt", folder / "wide.pth"


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("size", SIZES)
def test_checkpoints_give_what_the_naive_network_gives(files, drawn, size):
    backbone, heads = drawn
    pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1)) * 255
    with torch.inference_mode():
        features = features_of(pixels, backbone)
        for wiring in ("jims", "icpr"):
            amap, score = heads_of(features, heads, wiring, size)
            network = load_network(files[0], "wide_resnet50_2", files[1], wiring=wiring).network
            variants: list[torch.nn.Module] = [ExactSuperSimpleNet(network, size)]
            if size == (256, 256):
                assert difference(network.embed(*network.taps(pixels)), features) < 1e-4
                variants.append(network)
            for variant in variants:
                got = variant(pixels)
                assert got[0].shape == amap.shape
                assert difference(got[0], amap) < 1e-4, (wiring, type(variant))
                assert difference(got[1], score) < 1e-4, (wiring, type(variant))


def test_a_checkpoint_becomes_a_bundle(files, tmp_path, capsys):
    out = tmp_path / "bundle"
    with pytest.raises(SystemExit, match="0"):
        main(["export-model", str(files[0]), "--backbone-weights", str(files[1]), "--wiring",
              "jims", "--size", "96", "64", "--source", "200", "130", "--product", "capsule",
              "--out", str(out)])  # fmt: skip
    said = capsys.readouterr()
    assert "bundle" in said.out
    assert "is not torchvision's V1 file" in said.err
    bundle = load_bundle(out)
    assert bundle.manifest.input.resize == "authors"
    assert bundle.manifest.provenance["wiring"] == "jims"
    assert (bundle.manifest.product, bundle.manifest.suggested) == ("capsule", None)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    scorer = evaluate.scorer_of(bundle)
    network = load_network(files[0], "wide_resnet50_2", files[1]).network
    for golden in bundle.manifest.golden[::3]:
        frame = cv2.imread(str(bundle.path(golden.image)))
        assert frame is not None
        amap, score = scorer.answer(frame[:, :, ::-1].astype(np.uint8))
        stored = golden_outputs(bundle.path(golden.outputs))
        assert np.array_equal(amap, stored["map"])
        # The authors' resize: bilinear, no antialias, half-pixel centres.
        pixels = torch.from_numpy(frame[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
        resized = torch.nn.functional.interpolate(
            pixels, size=(96, 64), mode="bilinear", align_corners=False
        )
        with torch.inference_mode():
            plain = network(resized)
        assert difference(torch.from_numpy(amap), plain[0][0]) < 1e-3
        assert float(plain[1][0]) == pytest.approx(float(score), abs=1e-3)


def test_foreign_checkpoints_are_named(files, tmp_path):
    heads = torch.load(files[0], weights_only=True)
    path = tmp_path / "weights.pt"

    def load(stored: object, backbone: str = "wide_resnet50_2"):
        torch.save(stored, path)
        return load_network(path, backbone, files[1])

    with pytest.raises(ConfigError, match=r"feature_adaptor.projection.weight of Super.* got fc"):
        load({"fc.weight": torch.zeros(2)})
    with pytest.raises(ConfigError, match="expected a torch state dict of tensors, got list"):
        load([1, 2])
    missing = {name: value for name, value in heads.items() if "dec_head.0" not in name}
    with pytest.raises(ConfigError, match=r"the parameter discriminator\.dec_head\.0\.weight"):
        load(missing)
    other = {name: value[:152, :152] if "projection.weight" in name else value
             for name, value in heads.items()}  # fmt: skip
    with pytest.raises(ConfigError, match="152 feature channels; is it another backbone"):
        load(other)
    with pytest.raises(ConfigError, match="expected parameters of SuperSimpleNet alone, got disc"):
        load(heads | {"discriminator.more": torch.zeros(1)})
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"weights\.pt: expected a torch state dict"):
        load_network(path, "wide_resnet50_2", files[1])
    with pytest.raises(ConfigError, match="expected weights of the heads, got No such file"):
        load_network(tmp_path / "none.pt", "wide_resnet50_2", files[1])
    with pytest.raises(ArtefactError, match="not there yet"):
        export_model.main(files[0], tmp_path, backbone_weights=files[1])


def test_heads_survive_their_own_file(files, tmp_path):
    network = load_network(files[0], "wide_resnet50_2", files[1]).network
    network.standardise_fine.mean.fill_(3.0)
    save_heads(network, tmp_path / "heads.npz")
    other = load_network(files[0], "wide_resnet50_2", files[1]).network
    put_heads(other, read_heads(tmp_path), tmp_path)
    for name, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("named", [True, False])
def test_second_version_weights_are_refused_with_the_reason(tmp_path, named, monkeypatch):
    path = tmp_path / ("resnet50-11ad3fa6.pth" if named else "renamed.pth")
    path.write_bytes(b"x")
    if not named:
        monkeypatch.setattr(weights, "hash_file", lambda path: "11ad3fa6" + "0" * 56)
    with pytest.raises(ConfigError, match=r"V1 weights \(resnet50-0676ba61.*ten times as large"):
        weights.find_weights("resnet50", path)


def test_downloads_are_whole_and_as_pinned_or_not_at_all(tmp_path, monkeypatch):
    there = tmp_path / "server"
    there.mkdir()
    (there / "net.pth").write_bytes(b"the weights")
    digest = weights.hash_file(there / "net.pth")
    monkeypatch.setattr(weights, "SOURCE", f"{there.as_uri()}/")
    monkeypatch.setattr(weights, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(weights, "REFERENCE", {"resnet18": ("net.pth", digest)})
    with pytest.raises(ConfigError, match="--download-weights once when online"):
        weights.find_weights("resnet18")
    found = weights.find_weights("resnet18", download=True)
    assert found.is_reference
    assert found.path.read_bytes() == b"the weights"
    monkeypatch.setattr(weights, "REFERENCE", {"resnet18": ("net.pth", "0" * 64)})
    found.path.unlink()
    with pytest.raises(ConfigError, match=r"net\.pth: expected SHA-256 0000"):
        weights.find_weights("resnet18", download=True)
    (there / "net.pth").unlink()
    with pytest.raises(ConfigError, match="expected a download"):
        weights.find_weights("resnet18", download=True)
    assert not list((tmp_path / "cache").iterdir())
