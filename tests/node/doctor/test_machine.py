"""What the doctor says of a machine that is not as it should be."""

from __future__ import annotations

import socket
from collections import namedtuple
from pathlib import Path

import pytest

from node.api.doctor import Checked
from node.config import CONFIG_FILE
from node.doctor import machine
from node.doctor.machine import examine_machine
from node.keys import make_key


def found_in(home: Path) -> dict[str, Checked]:
    return {one.part: one for one in examine_machine(home)}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A gateway's home with a key; its ports are free ones."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(
        'role = "gateway"\nhttp_port = 0\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n'
    )
    make_key(folder / "key", None)
    return folder


def test_a_home_as_it_should_be(home: Path) -> None:
    found = found_in(home)
    assert {part: one.state for part, one in found.items() if part != "disk"} == {
        "home": "ok",
        "settings": "ok",
        "keys": "ok",
        "ports": "ok",
    }


def test_a_home_that_is_not_there(tmp_path: Path) -> None:
    [only] = examine_machine(tmp_path / "nothing")
    assert (only.part, only.state) == ("home", "wrong")
    assert "lorikeet init" in only.mend


def test_a_setting_that_nobody_knows(home: Path) -> None:
    (home / CONFIG_FILE).write_text("rol = 3\n")
    found = found_in(home)
    assert found["settings"].state == "wrong"
    assert "rol" in found["settings"].what
    assert CONFIG_FILE in found["settings"].mend
    assert "ports" not in found


def test_a_key_that_others_can_read(home: Path) -> None:
    (home / "key").chmod(0o644)
    found = found_in(home)["keys"]
    assert found.state == "wrong"
    assert found.mend == f"chmod 600 {home / 'key'}"


@pytest.mark.parametrize("name", ["listen", "http_port"])
def test_a_port_that_somebody_else_has(home: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = {"listen": ["/ip4/127.0.0.1/tcp/0"], "http_port": 0}
        settings[name] = port if name == "http_port" else [f"/ip4/127.0.0.1/tcp/{port}"]
        lines = [f"{key} = {value}".replace("'", '"') for key, value in settings.items()]
        (home / CONFIG_FILE).write_text("\n".join(['role = "gateway"', *lines]))
        found = found_in(home)["ports"]
    assert found.state == "wrong"
    assert str(port) in found.what
    assert name in found.mend


@pytest.mark.parametrize(("free", "state"), [(100, "wrong"), (2 << 30, "note"), (9 << 30, "ok")])
def test_a_disk_that_fills_up(
    home: Path, free: int, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(free))
    assert found_in(home)["disk"].state == state


def test_a_base_that_is_not_there(home: Path) -> None:
    (home / CONFIG_FILE).write_text('base_path = "/no/such/base.gguf"\nhttp_port = 0\n')
    found = found_in(home)["base"]
    assert found.state == "wrong"
    assert "/no/such/base.gguf" in found.what


def test_a_driver_that_does_not_answer(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / CONFIG_FILE).write_text("http_port = 0\n")
    driver = tmp_path / "version"
    driver.touch()
    monkeypatch.setattr(machine, "GPU_FILE", driver)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found_in(home)["gpu"].state == "wrong"
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.1'\n")
    program.chmod(0o755)
    assert found_in(home)["gpu"] == Checked("gpu", "ok", "NVIDIA H200, 570.1")
