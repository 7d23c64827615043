"""What a folder says of its origin stands in the manifest, or is refused by its table's name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from node.catalogue.packaging import Package, load_package
from node.errors import AdapterError
from proofs.origin import Attribution, DatanetVersion

from .twins import BASE, make_folder

SECRET = bytes(31) + b"\1"
PEOPLE = """
[[contributors]]
address = "0x1111111111111111111111111111111111111111"
weight = 2
[[contributors]]
address = "0x2222222222222222222222222222222222222222"
weight = 0
"""
MEASURED = """
[attribution]
lambda_eighths = 3
r_bps = 3900
lds_bps = -40
answers = 48
r_interval = [3100, 4600]
lds_interval = [-300, 220]
"""


def folder(tmp_path: Path, about: str, *files: str) -> Path:
    made = make_folder(tmp_path / "law", "law")
    (made / "lorikeet.toml").write_text(f'name = "law"\n{about}')
    for name in files:
        (made / name).write_bytes(name.encode())
    return made


def load(path: Path) -> Package:
    return load_package(path, SECRET, BASE)


def test_a_folder_that_says_nothing_of_it_is_of_version_one(tmp_path: Path) -> None:
    assert load(folder(tmp_path, "")).manifest.version == 1


def test_what_a_folder_says_of_its_origin_stands_in_its_manifest(tmp_path: Path) -> None:
    datanet = f'[[datanets]]\nid = "{"ab" * 32}"\nversion = 7\ndigest = "{"cd" * 32}"\n'
    files = ("attribution.tokens", "background.tokens", "recipe.toml", "card.md")
    package = load(folder(tmp_path, PEOPLE + datanet + MEASURED, *files))
    origin = package.manifest.made_of
    assert origin is not None
    assert origin.recipe == hashlib.sha256(b"recipe.toml").digest()
    assert origin.evaluation == b""
    assert origin.datanets == (DatanetVersion(b"\xab" * 32, 7, b"\xcd" * 32),)
    assert origin.attribution == Attribution(
        rule="ladder-1",
        background=hashlib.sha256(b"background.tokens").digest(),
        lambda_eighths=3,
        none_bits=8,
        r_bps=3_900,
        lds_bps=-40,
        answers=48,
        r_interval=(3_100, 4_600),
        lds_interval=(-300, 220),
    )
    assert {*files} < {file.name for file in package.manifest.files}
    assert load(package.paths[0].parent).equals(package.manifest)
    blocks = [hashlib.sha256(block).digest() for block in package.blocks()]
    assert blocks == [block for file in package.manifest.files for block, _ in file.blocks]


@pytest.mark.parametrize(
    ("about", "files", "why"),
    [
        (PEOPLE, ("attribution.tokens",), r"no \[attribution\]; say lambda_eighths"),
        (PEOPLE + MEASURED, ("attribution.tokens",), "background.tokens is missing"),
        (PEOPLE + MEASURED, ("background.tokens",), "add that file"),
        (MEASURED, ("attribution.tokens", "background.tokens"), "names none"),
        (
            PEOPLE + MEASURED.replace("answers = 48", ""),
            ("attribution.tokens", "background.tokens"),
            r"\[attribution\] in lorikeet.toml lacks answers",
        ),
        (
            PEOPLE + MEASURED.replace("lambda_eighths = 3", "lambda_eighths = 9"),
            ("attribution.tokens", "background.tokens"),
            r"\[attribution\] in lorikeet.toml: .*8",
        ),
        ("attribution = 3\n", ("background.tokens",), r"\[attribution\] in lorikeet.toml"),
        ('[[datanets]]\nid = "xy"\nversion = 1\ndigest = ""\n', (), r"\[datanets\]"),
        ('[[parents]]\nmanifest = "ab"\n', (), r"\[parents\] in lorikeet.toml lacks weight_bps"),
    ],
)
def test_an_origin_that_cannot_be_is_refused_with_the_mend(
    tmp_path: Path, about: str, files: tuple[str, ...], why: str
) -> None:
    with pytest.raises(AdapterError, match=why):
        load(folder(tmp_path, about, *files))
