"""The network on an NVIDIA device through torch and ONNX Runtime: microseconds per frame.

What the exact graph gains on a GPU, where there is one without TensorRT. A frame is uint8 RGB of
the network's size in pinned memory; map and score end in pinned memory. Weights are random.

    python -m models.gpu_bench --out gpu.json [--onnx] [--compile]

Every row is printed and kept as it is found; a row that fails says why.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.comparison import PAPER, Heads, random_network
from models.exact import ExactSuperSimpleNet
from models.supersimplenet import SuperSimpleNet

NETWORKS = {
    "wide_resnet50_2": ("wide_resnet50_2", PAPER),
    "resnet18": ("resnet18", PAPER),
    "lite0, paper's heads": ("efficientnet_lite0", PAPER),
    "lite0, as trained here": ("efficientnet_lite0", Heads(256, 1)),
}
GRAPHS = ("published", "exact", "backbone")
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SECONDS, _FEWEST = 0.25, 20

Run = Callable[[Tensor], tuple[Tensor, Tensor]]


class Case(NamedTuple):
    """What is measured."""

    network: str
    graph: str
    precision: str
    batch: int
    layout: str = "NHWC"
    way: str = "CUDA graph"


class Deployed(nn.Module):
    """uint8 (N, H, W, 3) → map and score in float32; convolutions in `kind`.

    As `appliance/half.py` does it: pixels are normalised in float32, the layer behind the
    statistics of the whole map is float32, and so are the outputs.
    """

    def __init__(self, plain: SuperSimpleNet, graph: str, kind: torch.dtype, layout: str) -> None:
        super().__init__()
        size = (256, 256)
        body = plain if graph != "exact" else ExactSuperSimpleNet(plain, size)
        self._graph, self._kind = graph, kind
        body = body.backbone if graph == "backbone" else body
        self._normalise = plain.normalise
        body.to(kind)
        if layout == "NHWC":
            body.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if graph != "backbone":
            body.register_module("normalise", nn.Identity())  # float32 pixels come below
            score = body.get_submodule("discriminator" if graph == "published" else "")
            score = score.get_submodule("fc_score").float()
            score.register_forward_pre_hook(lambda _, given: (given[0].float(),))
        self._body = body.cuda()
        self._normalise.float().cuda()
        self._layout = torch.channels_last if layout == "NHWC" else torch.contiguous_format

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As the class says; of the backbone alone both taps, as they are."""
        pixels = self._normalise(frames.permute(0, 3, 1, 2).float())
        first, second = self._body(pixels.to(self._kind).contiguous(memory_format=self._layout))
        return (first, second) if self._graph == "backbone" else (first.float(), second.float())


def folded(network: nn.Module) -> None:
    """BatchNorm of the frozen backbone into the convolution before it, as every runtime does."""
    before: nn.Conv2d | None = None
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d):
                before = child
            elif isinstance(child, nn.BatchNorm2d) and before is not None:
                assert before.out_channels == child.num_features
                assert child.running_mean is not None and child.running_var is not None
                before.weight, before.bias = fuse_conv_bn_weights(
                    before.weight, before.bias, child.running_mean, child.running_var, child.eps,
                    child.weight, child.bias,
                )  # fmt: skip
                setattr(parent, name, nn.Identity())
                before = None


def deployed(case: Case) -> Deployed:
    """The network of a case, with the same random weights for all of its graphs."""
    backbone, heads = NETWORKS[case.network]
    plain = random_network(backbone, (256, 256), heads)
    with torch.no_grad():
        folded(plain.backbone)
        return Deployed(plain, case.graph, TYPES[case.precision], case.layout).eval()


def frames_of(batch: int) -> Tensor:
    """(N, 256, 256, 3) uint8 noise in pinned memory."""
    pixels = np.random.default_rng(7).integers(0, 256, (batch, 256, 256, 3), np.uint8)
    return torch.from_numpy(pixels).pin_memory()


def captured(run: Run, given: Tensor) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    """One CUDA graph of `run` on the tensor `given`: its launch, and where the outputs lie."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run(given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run(given)
    return graph.replay, outputs


def measured(run: Run, batch: int, way: str) -> tuple[dict[str, float], tuple[Tensor, Tensor]]:
    """Medians in µs per frame of upload, compute and download (CUDA events, in turn) and of all
    three until the host has the answer (wall clock); and the answer on the host."""
    host, device = frames_of(batch), torch.empty((batch, 256, 256, 3), dtype=torch.uint8).cuda()
    device.copy_(host)
    if way == "CUDA graph":
        launch, outputs = captured(run, device)
    else:
        outputs = run(device)

        def launch() -> None:
            nonlocal outputs
            outputs = run(device)

    room = [torch.empty(o.shape, dtype=o.dtype).pin_memory() for o in outputs]

    def once(marks: list[Any]) -> None:
        marks[0].record()
        device.copy_(host, non_blocking=True)
        marks[1].record()
        launch()
        marks[2].record()
        for target, source in zip(room, outputs, strict=True):
            target.copy_(source, non_blocking=True)
        marks[3].record()
        torch.cuda.synchronize()

    marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
    for _ in range(5):
        once(marks)
    parts: list[list[float]] = []
    walls: list[float] = []
    until = time.monotonic() + _SECONDS
    while len(walls) < _FEWEST or time.monotonic() < until:
        for target in room:
            target.fill_(float("nan"))
        begun = time.perf_counter()
        once(marks)
        walls.append((time.perf_counter() - begun) * 1e6 / batch)
        parts.append([a.elapsed_time(b) * 1e3 / batch for a, b in pairwise(marks)])
    upload, compute, download = (statistics.median(part) for part in zip(*parts, strict=True))
    told = {"upload_us": upload, "compute_us": compute, "download_us": download,
            "total_us": statistics.median(walls), "calls": len(walls)}  # fmt: skip
    return told, (room[0].clone(), room[1].clone())


def deviation(case: Case, answer: tuple[Tensor, Tensor], truth: dict[Any, Any]) -> dict[str, float]:
    """Largest difference of map and score from the published graph in float32, in logits."""
    if case.graph == "backbone":
        return {}
    key = (case.network, case.batch)
    if key not in truth:
        if (case.graph, case.precision) != ("published", "fp32"):
            return {}
        truth[key] = answer
    amap, score = truth[key]
    return {
        "map_off": float((answer[0] - amap).abs().max()),
        "score_off": float((answer[1] - score).abs().max()),
        "map_spread": float(amap.std()),
    }


def cases() -> Iterator[Case]:
    """In order of worth: a run that is cut short has the first ones. float32 first, as truth."""
    wide = "wide_resnet50_2"
    for precision, batch, graph in product(("fp32", "fp16", "bf16"), (1, 16), GRAPHS):
        yield Case(wide, graph, precision, batch)
    for batch, graph in product((1, 16), GRAPHS):
        yield Case(wide, graph, "fp16", batch, way="calls")
    for precision, batch, graph in product(("fp32", "fp16"), (1, 16), ("published", "exact")):
        yield Case(wide, graph, precision, batch, layout="NCHW")
    for network in list(NETWORKS)[1:]:
        for precision, batch, graph in product(("fp32", "fp16"), (1, 16), GRAPHS):
            yield Case(network, graph, precision, batch)


def torch_rows(is_compiled: bool) -> Iterator[dict[str, Any]]:
    """Rows of torch. is_compiled: float16 WRN-50-2 through torch.compile alone."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    truth: dict[Any, Any] = {}
    chosen = list(cases())
    if is_compiled:
        half = [c for c in chosen if c.network == "wide_resnet50_2" and c.way != "calls"]
        chosen = [half[0], half[3]]  # the truth of both batches
        chosen += [
            Case("wide_resnet50_2", graph, "fp16", batch, way="compiled, CUDA graph")
            for batch, graph in product((1, 16), ("exact", "published"))
        ]
    for case in chosen:
        row: dict[str, Any] = case._asdict()
        try:
            network = deployed(case)
            run: Run = torch.compile(network) if "compiled" in case.way else network
            with torch.inference_mode():
                way = "CUDA graph" if "CUDA graph" in case.way else case.way
                told, answer = measured(run, case.batch, way)
            row |= told | deviation(case, answer, truth)
        except Exception as err:  # noqa: BLE001 - one row; the others are worth their time
            row["failed"] = " ".join(f"{type(err).__name__}: {err}".split())[:200]
        yield row
        torch.cuda.empty_cache()


def write_onnx(folder: Path, network: str) -> None:
    """Exact and published graph of a network as files, for `onnx_rows`."""
    from models.comparison import graphs_to_compare

    folder.mkdir(parents=True, exist_ok=True)
    for name, model in graphs_to_compare(NETWORKS[network][0], (256, 256)).items():
        if name in ("exact", "published"):
            (folder / f"{network}-{name}.onnx").write_bytes(model.SerializeToString())


def onnx_rows(folder: Path, seconds: float) -> Iterator[dict[str, Any]]:
    """Our engine on ONNX Runtime's CUDA provider, beside ONNX Runtime on the processor: wall clock
    of a call, batch 1, frames and maps in ordinary memory."""
    import onnx

    from appliance.bundle import InputContract
    from appliance.engine import Engine, Spec
    from appliance.engine_onnx import OnnxCudaEngine, OnnxEngine
    from appliance.half import to_half
    from appliance.head import merged_network

    contract = InputContract(
        height_px=256, width_px=256, source_height_px=256, source_width_px=256, channels=3,
        smallest_defect_px=3.0,
    )  # fmt: skip
    spec = Spec(height_px=256, width_px=256, channels=3, map_shape=(1, 256, 256))
    frame = np.random.default_rng(7).integers(0, 256, spec.frame_shape, np.uint8)
    until = time.monotonic() + seconds
    for path in sorted(folder.glob("*.onnx")):
        network, _, graph = path.stem.rpartition("-")
        truth: tuple[np.ndarray, float] | None = None
        for precision in ("cpu", "fp32", "fp16"):
            if time.monotonic() > until:
                return
            row: dict[str, Any] = {"network": network, "graph": graph, "precision": precision,
                                   "batch": 1, "way": "ONNX Runtime"}  # fmt: skip
            try:
                model = onnx.ModelProto.FromString(path.read_bytes())
                model = to_half(model) if precision == "fp16" else model
                adapter = OnnxEngine if precision == "cpu" else OnnxCudaEngine
                merged = merged_network(model, contract, *spec.frame_shape, adapter.sums)
                engine: Engine = adapter(spec, merged.SerializeToString(), "fp32", 15)
                out, score = np.empty(spec.map_shape, np.float32), math.nan
                for _ in range(10):
                    engine.infer(frame, out)
                walls: list[float] = []
                for _ in range(20 if precision == "cpu" else 200):
                    begun = time.perf_counter()
                    score = engine.infer(frame, out)
                    walls.append((time.perf_counter() - begun) * 1e6)
                engine.close()
                truth = (out.copy(), score) if truth is None else truth
                row |= {
                    "total_us": statistics.median(walls),
                    "map_off": float(np.abs(out - truth[0]).max()),
                    "score_off": abs(score - truth[1]),
                }
            except Exception as err:  # noqa: BLE001 - one row
                row["failed"] = " ".join(f"{type(err).__name__}: {err}".split())[:300]
            yield row


def line(row: dict[str, Any]) -> str:
    """One row for people."""
    who = (f"{row['network']:23} {row['graph']:9} {row['precision']:4} x{row['batch']:<2} "
           f"{row.get('layout', ''):4} {row['way']:20}")  # fmt: skip
    if "failed" in row:
        return f"{who} {row['failed']}"
    parts = [f"{row[f'{n}_us']:8.1f}" if f"{n}_us" in row else " " * 8
             for n in ("upload", "compute", "download", "total")]  # fmt: skip
    off = f"  off {row['map_off']:.1e} {row['score_off']:.1e}" if "map_off" in row else ""
    return f"{who} {' '.join(parts)}{off}"


def main(
    out: Annotated[Path, typer.Option(help="JSON lines, appended to.")],
    is_onnx: Annotated[
        Path | None, typer.Option("--onnx", help="Graphs of --write; no torch rows.")
    ] = None,
    write: Annotated[str, typer.Option(help="Write this network's graphs to --onnx.")] = "",
    is_compiled: Annotated[bool, typer.Option("--compile", help="torch.compile alone.")] = False,
    seconds: Annotated[float, typer.Option(help="Begin no row after so long.")] = 180.0,
) -> None:
    """Rows of torch, or of ONNX Runtime, one after the other."""
    if write and is_onnx:
        write_onnx(is_onnx, write)
        return
    until = time.monotonic() + seconds
    rows = onnx_rows(is_onnx, seconds) if is_onnx else torch_rows(is_compiled)
    for row in rows:
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        sys.stdout.write(line(row) + "\n")
        sys.stdout.flush()
        if time.monotonic() > until:
            sys.stdout.write("out of time\n")
            return


if __name__ == "__main__":
    typer.run(main)
