"""`python -m engine logits` as anybody runs it: files in, a file out, one line when it refuses.

What it makes comes from processes; what it refuses, but for one, from its `main` in this one.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.__main__ import main
from engine.config import EngineConfig
from engine.cuda.accelerator import Accelerator
from engine.cuda.device import HostDevice
from engine.cuda.kernels import REFERENCES
from engine.logits import Job, write_logits
from tests.node.forked import forked_python

from .worlds import BOTH, make_adapter, make_base, write_adapter


def arguments(base: Path, ids: Path, out: Path, *options: str) -> list[str]:
    files = ["--base", str(base), "--input-ids", str(ids), "--out", str(out)]
    return ["logits", *files, "--threads", "1", *options]


def run(base: Path, ids: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [forked_python(), "-m", "engine", *arguments(base, ids, out, *options)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )


def write_ids(
    path: Path, batch: int, length: int, dtype: torch.dtype = torch.int64
) -> torch.Tensor:
    ids = torch.randint(0, 320, (batch, length), generator=torch.Generator().manual_seed(1)).to(
        dtype
    )
    save_file({"input_ids": ids}, path)
    return ids


@BOTH
def test_the_file_holds_the_logits_of_transformers_and_peft(tmp_path: Path, kernels: str) -> None:
    model = make_base(tmp_path / "base", spread=0.2)
    ids = write_ids(tmp_path / "ids", 3, 150, torch.int32)
    bare = run(
        tmp_path / "base",
        tmp_path / "ids",
        tmp_path / "out",
        "--dtype",
        "float32",
        "--kernels",
        kernels,
    )
    assert bare.returncode == 0, bare.stderr
    assert "[3, 150, 320]" in bare.stdout
    with torch.no_grad():
        assert (load_file(tmp_path / "out")["logits"] - model(ids.long()).logits).abs().max() < 1e-4
    wrapped = make_adapter(model, tmp_path / "adapter", 1)
    options = (
        "--adapter",
        str(tmp_path / "adapter" / "a1"),
        "--dtype",
        "float32",
        "--kernels",
        kernels,
    )
    assert run(tmp_path / "base", tmp_path / "ids", tmp_path / "out", *options).returncode == 0
    with torch.no_grad():
        assert (
            load_file(tmp_path / "out")["logits"] - wrapped(ids.long()).logits
        ).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_other_number_formats_come_near(tmp_path: Path, dtype: str) -> None:
    model = make_base(tmp_path / "base", spread=0.1)
    ids = write_ids(tmp_path / "ids", 1, 20)
    assert (
        run(tmp_path / "base", tmp_path / "ids", tmp_path / "out", "--dtype", dtype).returncode == 0
    )
    with torch.no_grad():
        expected = model(ids).logits
    assert (
        load_file(tmp_path / "out")["logits"] - expected
    ).abs().max() < 0.1 * expected.abs().max()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    model = make_base(folder / "base")
    make_adapter(model, folder / "adapter", 1)
    write_ids(folder / "ids", 1, 8)
    save_file({"ids": torch.zeros(1, 4, dtype=torch.int64)}, folder / "unnamed")
    save_file({"input_ids": torch.zeros(1, 4)}, folder / "floats")
    save_file({"input_ids": torch.full((1, 4), 320)}, folder / "outside")
    save_file({"input_ids": torch.zeros(1, 2000, dtype=torch.int64)}, folder / "long")
    (folder / "broken").write_bytes(b"no safetensors")
    config = folder / "adapter" / "a1" / "adapter_config.json"
    (folder / "odd").mkdir()
    (folder / "odd" / "adapter_config.json").write_text(
        json.dumps(json.loads(config.read_text()) | {"modules_to_save": ["lm_head"]})
    )
    (folder / "odd" / "adapter_model.safetensors").write_bytes(
        (config.parent / "adapter_model.safetensors").read_bytes()
    )
    return folder


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"ids": "unnamed"}, "input_ids"),
        ({"ids": "floats"}, "input_ids"),
        ({"ids": "outside"}, "vocabulary"),
        ({"ids": "long"}, "context"),
        ({"ids": "broken"}, "--input-ids"),
        ({"ids": "absent"}, "--input-ids"),
        ({"base": "absent"}, "no base"),
        ({"base": "adapter"}, "config.json"),
        ({"adapter": "odd"}, "modules_to_save"),
        ({"adapter": "absent"}, "adapter_config.json"),
        ({"out": "absent/out"}, "--out"),
    ],
)
def test_what_is_refused_is_said_in_one_line_that_names_it(
    world: Path, change: dict[str, Any], word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {"base": "base", "ids": "ids", "out": "out", **change}
    adapter = ("--adapter", str(world / given["adapter"])) if "adapter" in given else ()
    command = arguments(world / given["base"], world / given["ids"], world / given["out"], *adapter)
    assert main(command) == 1
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert word in told
    assert not (world / "out").exists()


def test_a_process_that_refuses_says_nothing_else_and_ends_with_status_1(world: Path) -> None:
    done = run(world / "base", world / "absent", world / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "--input-ids" in done.stderr


def test_logits_from_a_device_are_those_of_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_base(tmp_path / "base")
    write_adapter(tmp_path / "adapter", 3)
    write_ids(tmp_path / "ids", 2, 40)
    written = []
    for accelerator in (None, Accelerator(HostDevice(), REFERENCES)):
        monkeypatch.setattr("engine.choose.find_accelerator", lambda *_, found=accelerator: found)
        config = EngineConfig(tmp_path / "base", "float32", "torch", 1)
        write_logits(Job(config, tmp_path / "adapter", tmp_path / "ids", tmp_path / "out"))
        written.append(load_file(tmp_path / "out")["logits"])
    assert written[0].shape == (2, 40, 320)
    assert torch.allclose(*written, atol=1e-3)
