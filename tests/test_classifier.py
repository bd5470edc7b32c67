"""The supervised score g: it learns, it is exported, and the forest reads it."""

import numpy as np
import pytest
import torch

from appliance.bundle import load_bundle
from appliance.errors import ConfigError
from appliance.segments import CLASSIFICATION
from models import backbones, evaluate, train
from models.classifier import Classifier, WithClassifier, fine_tune
from models.dataset import open_dataset
from models.exact import ExactSuperSimpleNet
from models.export import session, to_onnx
from models.metrics import image_metrics
from models.supersimplenet import SuperSimpleNet
from tests.test_models_bundle import write_parts

SIZE = (64, 64)


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey noise; every third picture has a bright bar."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 3 == 0).astype(np.int64)
    pictures = rng.normal(100, 20, (count, 3, *SIZE)).astype(np.float32)
    for number in np.flatnonzero(labels):
        row = int(rng.integers(8, 50))
        pictures[number, :, row : row + 5, 10:54] += 90
    return pictures.clip(0, 255), labels


def tuned(epochs: int) -> tuple[Classifier, float]:
    torch.manual_seed(0)
    classifier = Classifier(backbones.build("efficientnet_lite0"))
    pictures, labels = images(30, 0)
    loss = fine_tune(classifier, lambda numbers: pictures[list(numbers)], labels, epochs=epochs)
    return classifier, loss


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return tuned(6)[0]


def test_it_learns_what_it_is_shown(classifier):
    pictures, labels = images(30, 1)
    with torch.inference_mode():
        logits = classifier(torch.from_numpy(pictures)).numpy()
    assert image_metrics(labels, logits)["auroc"] > 0.95
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    plain = backbones.build("efficientnet_lite0").state_dict()
    changed = [name for name, value in classifier.backbone.state_dict().items()
               if not torch.equal(value, plain[name])]  # fmt: skip
    assert changed and not any("running" in name for name in changed)


def test_the_same_seed_is_the_same_training():
    assert tuned(1)[1] == pytest.approx(tuned(1)[1], rel=1e-6)


def test_the_graph_keeps_the_map_and_gives_the_classifiers_logit(classifier):
    torch.manual_seed(0)
    network = SuperSimpleNet(backbones.untrained("efficientnet_lite0"), hidden=16, grid=1).eval()
    pictures, _ = images(4, 2)
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(pictures)).numpy()
        plain = ExactSuperSimpleNet(network, SIZE)(torch.from_numpy(pictures))[0].numpy()
    graph = session(to_onnx(WithClassifier(network, classifier, SIZE), SIZE))
    amap, score = graph.run(["map", "score"], {"image": pictures})
    np.testing.assert_allclose(np.asarray(score), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.asarray(amap), plain, rtol=1e-4, atol=1e-4)


def test_a_bundle_with_a_classifier_has_its_column(tmp_path):
    write_parts(tmp_path / "plates" / "good", 28, is_bad=False, seed=0)
    write_parts(tmp_path / "plates" / "bad", 24, is_bad=True, seed=1)
    data = open_dataset(tmp_path / "plates", learn_bad=True)
    assert data.network_bad
    made = train.train_bundle(data, tmp_path / "b", size=SIZE, epochs=1, classifier=True)
    bundle = load_bundle(made)
    assert bundle.manifest.columns[-1] == CLASSIFICATION
    assert "classifier" in bundle.manifest.provenance
    answers = evaluate.scorer_of(bundle).score(data.pixels([s])[0] for s in data.held_out)
    labels = [sample.label for sample in data.held_out]
    assert image_metrics(labels, answers.classification)["auroc"] > 0.9
    if bundle.manifest.forest:
        assert len(evaluate.margins_of(bundle, answers)["segad"]) == len(labels)
    only_good = open_dataset(tmp_path / "plates", learn_bad=False)
    with pytest.raises(ConfigError, match="--classifier: expected bad images"):
        train.train_bundle(only_good, tmp_path / "c", size=SIZE, epochs=1, classifier=True)
