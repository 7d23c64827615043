"""What a folder says of its origin stands in the manifest, or is refused by its table's name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from node.catalogue.packaging import Package, load_package
from node.errors import AdapterError
from proofs.attribution.background import write_background
from proofs.attribution.listing import Listed, write_listing
from proofs.attribution.tokens import Contribution, write_tokens
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


WRITTEN = {
    "attribution.tokens": write_tokens(
        BASE.tokenizer_hash, 2, [Contribution(0, [range(9)]), Contribution(1, [range(5, 20)])]
    ),
    "background.tokens": write_background(BASE.tokenizer_hash, [range(30, 40)]),
    "contributors.msgpack": write_listing(
        [Listed(0, 0, b"\xaa" * 32, "notes", [4]), Listed(1, 0, b"\xbb" * 32, "more", [1])]
    ),
}
DATANET = f'[[datanets]]\nid = "{"ab" * 32}"\nversion = 7\ndigest = "{"cd" * 32}"\n'


def folder(tmp_path: Path, about: str, *files: str) -> Path:
    made = make_folder(tmp_path / "law", "law")
    (made / "lorikeet.toml").write_text(f'name = "law"\n{about}')
    for name in files:
        (made / name).write_bytes(WRITTEN.get(name, name.encode()))
    return made


def load(path: Path) -> Package:
    return load_package(path, SECRET, BASE)


def test_a_folder_that_says_nothing_of_it_is_of_version_one(tmp_path: Path) -> None:
    assert load(folder(tmp_path, "")).manifest.version == 1


def test_what_a_folder_says_of_its_origin_stands_in_its_manifest(tmp_path: Path) -> None:
    files = (*WRITTEN, "recipe.toml", "card.md")
    package = load(folder(tmp_path, PEOPLE + DATANET + MEASURED, *files))
    origin = package.manifest.made_of
    assert origin is not None
    assert origin.recipe == hashlib.sha256(b"recipe.toml").digest()
    assert origin.evaluation == b""
    assert origin.datanets == (DatanetVersion(b"\xab" * 32, 7, b"\xcd" * 32),)
    assert origin.attribution == Attribution(
        rule="ladder-1",
        background=hashlib.sha256(WRITTEN["background.tokens"]).digest(),
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


TEXTS = ("attribution.tokens", "background.tokens")
THREE = PEOPLE + PEOPLE.partition('[[contributors]]\naddress = "0x2')[0].replace("1111", "3333")


@pytest.mark.parametrize(
    ("about", "name", "data", "why"),
    [
        (THREE, "", b"", "contributors: attribution.tokens has 2, the manifest 3"),
        (PEOPLE, "attribution.tokens", WRITTEN["background.tokens"], "has 0, the manifest 2"),
        (PEOPLE, "background.tokens", WRITTEN["attribution.tokens"], "background.*nobody's"),
        (PEOPLE, "attribution.tokens", b"no tokens", "attribution tokens size"),
        (PEOPLE, "attribution.tokens", b"", "schema"),
        (
            PEOPLE,
            "attribution.tokens",
            write_tokens(bytes(32), 2, [Contribution(0, [[1]]), Contribution(1, [[2]])]),
            "another tokenizer",
        ),
        (PEOPLE, "contributors.msgpack", b"no listing", "contributors.msgpack"),
        (
            PEOPLE,
            "contributors.msgpack",
            write_listing([Listed(0, 0, bytes(32), "notes", [1])]),
            "contributors.msgpack lists 1 contributions, and attribution.tokens has 2",
        ),
    ],
)
def test_texts_that_are_not_the_manifests_are_refused_before_it_is_signed(
    tmp_path: Path, about: str, name: str, data: bytes, why: str
) -> None:
    made = folder(tmp_path, about + DATANET + MEASURED, *TEXTS)
    if name:
        (made / name).write_bytes(data)
    with pytest.raises(AdapterError, match=why):
        load(made)


def test_a_listing_of_a_text_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"whose attribution.tokens is, which is not there"):
        load(folder(tmp_path, PEOPLE + DATANET, "contributors.msgpack"))


def test_a_listing_of_no_datanet_that_the_manifest_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"contribution 1 is of datanet 0, .* names 0"):
        load(folder(tmp_path, PEOPLE + MEASURED, *WRITTEN))
