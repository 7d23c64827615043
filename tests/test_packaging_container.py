"""The container file, as far as no container is needed: what it names is there, and nothing in it
reaches out but for its base.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from node.config import Config

ROOT = Path(__file__).parent.parent
FILE = (ROOT / "Containerfile").read_text()


def steps() -> list[tuple[str, list[str]]]:
    """Each instruction and its words."""
    joined = re.sub(r"\\\n\s*", " ", FILE)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], shlex.split(line)[1:]) for line in lines]


def test_what_a_step_runs_or_copies_is_in_the_repository() -> None:
    named = {word for _, words in steps() for word in words if word.startswith("scripts/")}
    assert named == {"scripts/setup"}
    assert all((ROOT / name).exists() for name in named)
    copied = [words for step, words in steps() if step == "COPY"]
    assert copied == [[".", "."]], "the whole checkout, without what .containerignore names"


def test_no_step_but_the_first_names_a_host_and_packages_come_from_the_folder() -> None:
    (first, base), second, *others = steps()
    assert first == "ARG"
    assert re.fullmatch(r"BASE=docker\.io/library/python:3\.1[123]-slim", base[0])
    assert second == ("FROM", ["${BASE}"])
    told = " ".join(word for _, words in others for word in words)
    assert "://" not in told
    assert not re.search(r"\b[\w-]+\.(io|org|com|net)\b", told)
    assert "PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels scripts/setup" in told


def test_what_it_sets_are_settings_of_a_daemon_and_what_is_ignored_is_no_source() -> None:
    said = [word for step, words in steps() if step == "ENV" for word in words]
    names = [word.partition("=")[0] for word in said]
    settings = [name.removeprefix("LORIKEET_").lower() for name in names if "LORIKEET_" in name]
    assert settings == ["home", "http_host"]
    assert all(hasattr(Config(Path()), name) for name in settings)
    ignored = (ROOT / ".containerignore").read_text().split()
    assert not {"node", "engine", "p2p", "proofs", "factory", "requirements"} & set(ignored)


def test_the_words_about_it_name_files_that_are_there() -> None:
    told = (ROOT / "docs" / "usage.md").read_text()
    about = told[told.index("## A node in a container") :].partition("\n## ")[0]
    locks = set(re.findall(r"requirements/[\w.]+", about))
    assert locks == {"requirements/run.txt", "requirements/compiler.txt"}
    assert all((ROOT / name).exists() for name in locks)
    assert "--network=none" in about
    version = re.search(r"^TORCH=(\S+)", (ROOT / "scripts" / "setup").read_text(), re.MULTILINE)
    assert version is not None
    assert f"torch=={version[1]}" in about
