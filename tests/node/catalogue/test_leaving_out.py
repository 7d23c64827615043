"""What was withdrawn is left out of the next version: its tokens, its pay, its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.catalogue.leaving_out import folder_without, write_without
from node.catalogue.packaging import Package, load_package
from node.catalogue.texts import find_listing, map_tokens
from node.errors import AdapterError, UnknownModel
from proofs.attribution.background import Background, write_background
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.attribution.listing import Listed, write_listing
from proofs.attribution.tokens import Contribution, write_tokens
from proofs.manifest import Manifest

from .test_publishing import Scene
from .twins import BASE, make_folder

SECRET = bytes(31) + b"\1"
ANN, BEN, CAT = ("0x" + digit * 40 for digit in "123")
POEM, LAW, NOTES, COPY = (list(range(at, at + 20)) for at in (100, 200, 300, 100))
ABOUT = f"""
name = "law"
version = "1"
licence = "CC0-1.0"
description = "What a court would say — or “not”."
[[contributors]]
name = "Ann"
address = "{ANN}"
weight = 5000
[[contributors]]
name = "Ben"
address = "{BEN}"
weight = 3000
[[contributors]]
name = "Cat"
address = "{CAT}"
weight = 2000
[attribution]
lambda_eighths = 3
r_bps = 3900
lds_bps = 4000
answers = 48
r_interval = [3100, 4600]
lds_interval = [2600, 5300]
[[datanets]]
id = "{"ab" * 32}"
version = 7
digest = "{"cd" * 32}"
"""


def source(folder: Path) -> Path:
    """Ann gave a poem, Ben a law and, later, notes; Cat copied the poem."""
    made = make_folder(folder, "law")
    (made / "lorikeet.toml").write_text(ABOUT)
    given = [(0, POEM), (1, LAW), (2, COPY), (1, NOTES)]
    text = write_tokens(BASE.tokenizer_hash, 3, [Contribution(who, [ids]) for who, ids in given])
    listed = [
        Listed(who, 0, bytes([16 * number] * 32), f"text {number}", [number])
        for number, (who, _) in enumerate(given, 1)
    ]
    (made / "attribution.tokens").write_bytes(text)
    (made / "background.tokens").write_bytes(write_background(BASE.tokenizer_hash, [[1, 2, 3]]))
    (made / "contributors.msgpack").write_bytes(write_listing(listed))
    return made


def without(tmp_path: Path, *withdrawn: str) -> tuple[Package, Path]:
    """The folder that is left, as it would be published."""
    write_without(source(tmp_path / "law"), withdrawn, tmp_path / "left")
    return load_package(tmp_path / "left", SECRET, BASE), tmp_path / "left"


def paid(manifest: Manifest) -> list[tuple[str, int]]:
    return [(one.name, one.weight) for one in manifest.contributors]


def drawn(folder: Path, answer: list[int]) -> tuple[int, ...]:
    index = Index.build(map_tokens(folder / "attribution.tokens"))
    background = Background.build(map_tokens(folder / "background.tokens"))
    return measure(index, background, [], answer).bits


def test_who_withdrew_all_is_paid_no_more_and_his_text_is_published_no_more(tmp_path: Path) -> None:
    package, left = without(tmp_path, "Ben")
    manifest = package.manifest
    assert paid(manifest) == [("Ann", 5_000), ("Cat", 2_000)]
    tokens = map_tokens(left / "attribution.tokens")
    assert tokens.contributions == ((0, 1), (1, 1))
    assert not {*LAW, *NOTES} & set(tokens.vocabulary.tolist())
    assert drawn(left, LAW) == (0, 0)
    assert drawn(left, POEM) == drawn(tmp_path / "law", POEM)[::2], "what others gave stays theirs"
    listed = find_listing(manifest, left, tokens)
    assert [(one.contributor, one.title) for one in listed] == [(0, "text 1"), (1, "text 3")]
    assert not package.states_version


def test_what_he_was_first_with_is_then_of_who_gave_it_next(tmp_path: Path) -> None:
    _, left = without(tmp_path, ANN.upper().replace("0X", "0x"))
    assert drawn(tmp_path / "law", POEM)[2] == 0
    assert drawn(left, POEM)[1] > 0


def test_one_contribution_of_several_takes_its_part_of_the_standing_weight(tmp_path: Path) -> None:
    package, left = without(tmp_path, "404040")
    assert paid(package.manifest) == [("Ann", 5_000), ("Ben", 1_500), ("Cat", 2_000)]
    assert map_tokens(left / "attribution.tokens").contributions == ((0, 1), (1, 1), (2, 1))


def test_what_was_measured_with_it_is_said_no_more(tmp_path: Path) -> None:
    package, _ = without(tmp_path, "Ben")
    origin = package.manifest.made_of
    assert origin is not None
    assert origin.attribution is not None
    assert origin.attribution.lambda_eighths == 3
    assert (origin.attribution.answers, origin.attribution.r_interval) == (0, (-10_000, 10_000))
    assert [one.number for one in origin.datanets] == [7]
    assert package.manifest.licence == "CC0-1.0"
    assert "— or “not”." in package.about_bytes.decode()


@pytest.mark.parametrize(
    ("withdrawn", "why"),
    [
        (("Dan",), "'Dan' is no contributor and no contribution of it; it names Ann, Ben, Cat"),
        (("4040",), "no contribution of it"),
        (("505050",), "no contribution of it"),
        (("Ann", "Ben", "Cat"), "nobody would be left .* lorikeet retract"),
        (("101010", "Ben", "303030"), "nobody would be left"),
    ],
)
async def test_what_is_not_there_or_leaves_nobody_is_refused(
    tmp_path: Path, withdrawn: tuple[str, ...], why: str
) -> None:
    folder = source(tmp_path / "law")
    with pytest.raises(AdapterError, match=why):
        async with folder_without(folder, withdrawn, tmp_path):
            pass
    assert os.listdir(tmp_path) == ["law"]


async def test_a_folder_that_is_broken_is_told_with_its_name(tmp_path: Path) -> None:
    folder = source(tmp_path / "law")
    (folder / "contributors.msgpack").write_bytes(b"odd")
    with pytest.raises(AdapterError, match=r"law: .*contributors.msgpack"):
        async with folder_without(folder, ["Ben"], tmp_path):
            pass


async def test_published_without_him_the_versions_before_take_no_request(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    catalogue = scene.catalogue
    folder = source(tmp_path / "law")
    await catalogue.publish(folder, None)
    async with folder_without(folder, ["Ben"], tmp_path) as kept:
        info = await catalogue.publish(kept.folder, None)
    assert info.version == "2"
    meant = await catalogue.names.resolve("law")
    assert str(meant) == info.cid
    assert meant is not None
    await catalogue.publisher.retract_others(meant, "law")
    resolve = catalogue.names.resolve
    assert await resolve("law@2") == await resolve("law") == meant
    with pytest.raises(UnknownModel, match="withdrawn"):
        await resolve("law@1")
