"""An index is the same built or mapped, and a cache that is not to be used is built anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from proofs.attribution.background import Background
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.errors import StaleIndex, TokensError

from .world import background_of, index_of, make_world

WORLD = make_world(11, num_questions=12)
INDEX = WORLD.index()
BACKGROUND = WORLD.background()


def assert_same(index: Index, background: Background) -> None:
    for prompt, answer in WORLD.questions:
        expected = measure(INDEX, BACKGROUND, prompt, answer)
        found = measure(index, background, prompt, answer)
        assert found.bits == expected.bits
        assert (found.foretold == expected.foretold).all()


def test_mapped_from_the_disk_it_answers_as_if_built(tmp_path: Path) -> None:
    INDEX.save(tmp_path / "text.index")
    BACKGROUND.save(tmp_path / "common.index")
    index = Index.open(tmp_path / "text.index", INDEX.tokens)
    background = Background.open(tmp_path / "common.index", BACKGROUND.tokens)
    assert_same(index, background)
    assert index.owned_tokens() == INDEX.owned_tokens()
    assert not index.suffixes.order.flags.writeable
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["common.index", "text.index"]


def test_a_cache_that_is_not_there_is_built(tmp_path: Path) -> None:
    index = Index.cached(tmp_path / "deep" / "text.index", INDEX.tokens)
    background = Background.cached(tmp_path / "deep" / "common.index", BACKGROUND.tokens)
    assert_same(index, background)
    assert (tmp_path / "deep" / "text.index").is_file()


@pytest.mark.parametrize("at", [0, 33, 40, 100, 0.5, -1])
def test_a_spoilt_cache_is_told_and_built_anew(tmp_path: Path, at: float) -> None:
    path = tmp_path / "text.index"
    INDEX.save(path)
    good = path.read_bytes()
    spoilt = bytearray(good)
    spoilt[int(at * len(good)) if isinstance(at, float) else at] ^= 1
    path.write_bytes(spoilt)
    with pytest.raises(StaleIndex):
        Index.open(path, INDEX.tokens)
    assert_same(Index.cached(path, INDEX.tokens), BACKGROUND)
    assert path.read_bytes() == good


@pytest.mark.parametrize("size", [0, 31, 35, 64, 1_000])
def test_a_cache_cut_short_is_told_and_built_anew(tmp_path: Path, size: int) -> None:
    path = tmp_path / "text.index"
    INDEX.save(path)
    good = path.read_bytes()
    path.write_bytes(good[:size])
    with pytest.raises(StaleIndex):
        Index.open(path, INDEX.tokens)
    Index.cached(path, INDEX.tokens)
    assert path.read_bytes() == good


def test_the_cache_of_another_text_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "text.index"
    index_of(1, [(0, [[1, 2, 3]])]).save(path)
    with pytest.raises(StaleIndex, match="another text"):
        Index.open(path, INDEX.tokens)
    assert_same(Index.cached(path, INDEX.tokens), BACKGROUND)


def test_a_disk_that_refuses_leaves_the_old_cache_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text.index"
    INDEX.save(path)
    good = path.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        index_of(1, [(0, [[1, 2, 3]])]).save(path)
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    (tmp_path / ".text.index-k1lled").write_bytes(b"half an index")
    (tmp_path / ".other.index-0123").write_bytes(b"another's")
    INDEX.save(tmp_path / "text.index")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".other.index-0123", "text.index"]


def test_positions_are_sorted_by_what_stands_before_them() -> None:
    ranks = INDEX.suffixes.text.tolist()
    backwards = [ranks[: position + 1][::-1] for position in INDEX.suffixes.order.tolist()]
    assert backwards == sorted(backwards)
    assert sorted(INDEX.suffixes.order.tolist()) == list(range(len(ranks)))


def test_ids_of_four_bytes_are_sorted_as_well() -> None:
    ids = np.random.default_rng(3).permutation(70_000).tolist()
    index = index_of(1, [(0, [ids])])
    assert index.tokens.ranks.itemsize == 4
    drawn = measure(index, background_of(), ids[500:504], ids[504:524])
    assert drawn.bits[0] > 19 * 11 << 16


def test_a_text_and_a_background_are_not_taken_for_one_another() -> None:
    with pytest.raises(TokensError, match="background has none"):
        Index.build(BACKGROUND.tokens)
    with pytest.raises(TokensError, match="nobody's"):
        Background.build(INDEX.tokens)
