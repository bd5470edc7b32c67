"""The documents say what is there: commands, files, links, codes."""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from appliance.__main__ import COMMANDS
from appliance.__main__ import app as command_line
from appliance.codes import FaultCode, OfflineReason, Word
from appliance.commands import unit_name
from appliance.config import load_config
from appliance.product_table import Products
from appliance.recipe import Recipe, load_recipe
from appliance.supervise import process_table
from appliance.toml_file import read_toml
from tools import timing_diagrams

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def documents() -> Iterator[tuple[Path, str]]:
    for path in DOCUMENTS:
        yield path, path.read_text(encoding="utf-8")


def called() -> list[list[str]]:
    """Arguments of every `inspectd …` in code, inline or fenced, in all documents."""
    calls: list[list[str]] = []
    for _, text in documents():
        inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
        fenced = [line for _, body in FENCE.findall(text) for line in body.splitlines()]
        for line in (*inline, *fenced):
            words = line.partition("#")[0].split()
            if words and words[0].rpartition("/")[2] == "inspectd" and len(words) > 1:
                calls.append(words[1:])
            elif words and words[0] == "./tools/demo":
                calls.append(["demo", *words[1:]])
    return calls


def anchors(text: str) -> set[str]:
    """As GitHub makes them out of headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def test_every_command_in_the_documents_exists() -> None:
    calls = called()
    assert {"demo", "run", "train", "plc-sim", "config", "doctor"} <= {call[0] for call in calls}
    for call in calls:
        assert call[0].startswith("-") or call[0] in COMMANDS, f"inspectd {' '.join(call)}"


@pytest.mark.parametrize("name", sorted({c[0] for c in called() if not c[0].startswith("-")}))
def test_every_option_in_the_documents_exists(name: str) -> None:
    runner = CliRunner()
    helps: dict[str, str] = {}
    for call in (c for c in called() if c[0] == name):
        is_group = name in ("audit", "camera", "config", "segments", "users")
        command = " ".join(call[:2]) if is_group else name
        if command not in helps:
            answer = runner.invoke(command_line, [*command.split(), "--help"])
            assert answer.exit_code == 0, answer.output
            helps[command] = answer.output
        for word in call:
            if word.startswith("--"):
                assert re.search(rf"{word}\b", helps[command]), f"inspectd {' '.join(call)}"


def test_every_link_leads_somewhere() -> None:
    for path, text in documents():
        for target in LINK.findall(FENCE.sub("", text)):
            if re.match(r"https?:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (path.parent / name).resolve() if name else path
            assert file.exists(), f"{path.name}: {target}"
            if anchor:
                there = anchors(file.read_text(encoding="utf-8"))
                assert anchor in there, f"{path.name}: {target}"


def test_every_file_of_ours_that_is_named_exists() -> None:
    ours = re.compile(r"`((?:appliance|models|tools|tests|docs)/[\w./]+\.\w+)`")
    for path, text in documents():
        for name in ours.findall(text):
            assert (ROOT / name).is_file(), f"{path.name}: {name}"


def test_the_example_configuration_loads() -> None:
    config = load_config(ROOT / "docs" / "config.example.toml")
    assert config.camera[0].producer == "viky"


def test_the_snippets_of_the_first_line_load(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "first-line.md").read_text(encoding="utf-8")
    products, recipe, tool, camera = (body for kind, body in FENCE.findall(text) if kind == "toml")
    (tmp_path / "a.toml").write_text(products)
    assert read_toml(tmp_path / "a.toml", Products).product[0].recipe == "plate/1"
    (tmp_path / "b.toml").write_text(recipe)
    assert read_toml(tmp_path / "b.toml", Recipe).camera["top"].exposure_us == 800.0
    (tmp_path / "c.toml").write_text(f'root = "."\ndeadline_ms = 200\n{tool}{camera}')
    config = load_config(tmp_path / "c.toml")
    assert config.camera[0].faults.delay_ms == 300
    assert (config.hmi.tool_port, config.record.images) == (8081, "all")


def test_the_snippets_about_several_cameras_load(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "camera.md").read_text(encoding="utf-8")
    cameras, recipe = (body for kind, body in FENCE.findall(text) if kind == "toml")
    (tmp_path / "config.toml").write_text(f'root = "."\ndeadline_ms = 200\n{cameras}')
    config = load_config(tmp_path / "config.toml")
    assert config.cameras == ("left", "right")
    units = [unit_name(*row) for row in process_table(config)]
    assert units[:3] == [
        f"inspectd@{name}.service" for name in ("camera-left", "camera-right", "infer-0")
    ]
    (tmp_path / "recipes" / "cap").mkdir(parents=True)
    (tmp_path / "recipes" / "cap" / "1.toml").write_text(recipe)
    loaded = load_recipe(config, "cap/1").recipe
    assert loaded.bundles(config.cameras) == {"0f3c…": "cap-left", "77ab…": "cap-right"}
    assert loaded.terms("right").limits.t2 == 3.0


def test_the_manual_explains_every_code_and_the_word_of_ok() -> None:
    text = (ROOT / "docs" / "plc.md").read_text(encoding="utf-8")
    for kind in (OfflineReason, FaultCode):
        table = text.partition(f"| {kind.__name__} |")[2].partition("\n\n")[0]
        for code in kind:
            row = f"| {code.value} {code.name.replace('_', ' ')} |".lower()
            assert row in table.lower(), f"{kind.__name__}: {row}"
    assert text.count(f"16#{Word.OK:04X}") >= 3


def test_the_timing_diagrams_are_what_the_table_says() -> None:
    for name, diagram in timing_diagrams.DIAGRAMS.items():
        file = timing_diagrams.FOLDER / f"{name}.svg"
        assert file.read_text(encoding="utf-8") == timing_diagrams.svg(diagram), (
            "run: python -m tools.timing_diagrams"
        )


def test_every_lane_of_a_diagram_runs_forward() -> None:
    for diagram in timing_diagrams.DIAGRAMS.values():
        for lane in diagram.lanes:
            steps = [step for step, _ in lane.changes]
            assert steps == sorted(set(steps)), lane.name
            assert steps[0] == 0 and steps[-1] < diagram.steps, lane.name


def test_drawings_are_well_formed_and_follow_the_reader_into_the_dark() -> None:
    drawings = sorted((ROOT / "docs" / "images").glob("*.svg"))
    assert drawings
    for path in drawings:
        text = path.read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert "prefers-color-scheme: dark" in text, path.name


def test_no_document_names_what_is_not_of_the_product() -> None:
    forbidden = re.compile(r"\b(issue #?\d|assistant|/work/|/tmp/)", re.IGNORECASE)
    for path, text in documents():
        assert not forbidden.search(text), path.name
