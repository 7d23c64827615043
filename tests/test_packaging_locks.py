"""The locks: complete, hashed, free of addresses, and agreeing with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ["run", "develop"]
NOT_LOCKED = {"torch", "ray", "lorikeet"}  # scripts/setup chooses the first, scripts/ray the second


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lock_text(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9._-]+)==(\S+)", lock_text(name)))


def assert_pinned(requirements: list[str], lock: str) -> None:
    pinned = pins(lock)
    for requirement in map(Requirement, requirements):
        name = canonicalize_name(requirement.name)
        if name not in NOT_LOCKED:
            assert requirement.specifier.contains(pinned[name], prereleases=True), (
                f"{requirement} in {lock}.txt: run scripts/lock"
            )


def test_run_lock_pins_every_dependency_of_a_node() -> None:
    assert_pinned(project()["dependencies"], "run")


def test_develop_lock_pins_every_extra_too() -> None:
    extras = project()["optional-dependencies"]
    assert_pinned(
        project()["dependencies"] + [r for group in extras.values() for r in group], "develop"
    )


def test_develop_lock_is_the_run_lock_and_more() -> None:
    assert pins("run").items() < pins("develop").items()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash(lock: str) -> None:
    entries = re.split(r"(?m)^(?=[a-z])", lock_text(lock))[1:]
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_holds_an_address(lock: str) -> None:
    assert "://" not in lock_text(lock)
    assert not re.search(r"(?m)^(-i|--(extra-)?index-url|-f|--find-links)\b", lock_text(lock))


@pytest.mark.parametrize("lock", LOCKS)
def test_nothing_in_a_lock_brings_cuda_or_a_second_engine(lock: str) -> None:
    unwanted = [
        name for name in pins(lock) if re.match(r"(torch|nvidia|cuda|triton|llama-cpp|llm$)", name)
    ]
    assert unwanted == (
        ["triton"] if lock == "develop" else []
    )  # without CUDA: tests run the GPU kernels in its interpreter


@pytest.mark.parametrize("lock", LOCKS)
def test_only_two_pure_python_packages_are_built_from_source(lock: str) -> None:
    assert "--only-binary :all:" in lock_text(lock)
    assert set(re.findall(r"(?m)^--no-binary (\S+)$", lock_text(lock))) == {
        "varint",
        "python-baseconv",
    }
