"""A card gives a client what the base's own files give, and is made once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from engine.base_files import base_id
from node.answering.tokenizer import BaseTokenizer, load_tokenizer
from node.api.answers import ChatMessage
from node.bases.describing import load_own
from node.bases.finding import find_base
from node.bases.loading import Base, tokenizer_of
from node.bases.shelf import Shelf
from node.config import Config, bundled_weights
from node.errors import ConfigError
from proofs.signing import Signer
from tests.node.tiny import TEMPLATE, make_base

ONE, OTHER = Signer(bytes([1]) * 32), Signer(bytes([2]) * 32)
TEXTS = (
    "The court finds that all is well.\n\n\tIndeed,  1234567 times!",
    "Grüße, 世界 🙂 naïve façade",
    "<|im_start|>user\nhello<|im_end|>\n",
    " leading and trailing  ",
    "def f(x):\n    return x**2 # don't",
)
TURNS = (ChatMessage("system", "Be brief."), ChatMessage("user", "Grüße, 1 2 3"))


def load(path: Path, home: Path, signer: Signer = ONE) -> Base:
    said: list[str] = []
    base = load_own(path, "base_path", Shelf(home), signer, said.append)
    assert said == ([] if base.dossier else said)
    return base


def of_card(base: Base) -> BaseTokenizer:
    assert base.dossier is not None
    return tokenizer_of(base.dossier.card, base.dossier.tokenizer_path)


@pytest.mark.parametrize("kind", ["gguf", "folder"])
def test_a_cards_tokenizer_gives_the_ids_of_the_bases_own(tmp_path: Path, kind: str) -> None:
    path = bundled_weights() if kind == "gguf" else make_base(tmp_path / "base")
    own, carried = load_tokenizer(path), of_card(load(path, tmp_path / "home"))
    for prompt in (*TEXTS, TURNS):
        ids = own.encode_prompt(prompt)
        assert carried.encode_prompt(prompt) == ids
        assert carried.decode(ids) == own.decode(ids)
        assert [carried.spell(one) for one in ids] == [own.spell(one) for one in ids]
    assert carried.render(TURNS) == own.render(TURNS)
    assert carried.stop_ids == own.stop_ids
    assert carried.tokenizer_hash == own.tokenizer_hash
    assert carried.template_hash == own.template_hash


def test_a_card_says_what_the_files_say(tmp_path: Path) -> None:
    path = make_base(tmp_path / "base")
    (path / "README.md").write_text("---\nlicense: cc0-1.0\n---\nA base.\n")
    (path / "merges.txt").write_text("")
    (path / "modeling.py").write_text("print('no part of a base')")
    base = load(path, tmp_path / "home")
    assert base.dossier is not None
    card, index = base.dossier.card, base.dossier.index
    assert index is not None
    assert card.base == base_id(path) == base.identity.base
    assert (card.name, card.licence, card.template) == ("base", "cc0-1.0", TEMPLATE)
    assert card.specials == [("eos_token", "<|im_end|>")]
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert [file.name for file in index.files] == names
    assert card.size == sum((path / name).stat().st_size for name in names)


def test_the_same_files_have_the_same_index_whoever_signs(tmp_path: Path) -> None:
    path = make_base(tmp_path / "base")
    copy = tmp_path / "elsewhere" / "base"
    shutil.copytree(path, copy)
    one, other = load(path, tmp_path / "one"), load(copy, tmp_path / "other", OTHER)
    assert one.dossier is not None
    assert other.dossier is not None
    assert one.dossier.card.index == other.dossier.card.index
    assert one.dossier.card.signer != other.dossier.card.signer
    assert set(one.texts()) & set(other.texts()) == {"base", base_id(path).hex()}


def test_files_are_read_once_until_one_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_base(tmp_path / "base")
    first = load(path, tmp_path / "home")
    assert first.dossier is not None
    with monkeypatch.context() as patch:
        patch.setattr("node.bases.describing._hash", None)
        again = load(path, tmp_path / "home")
        assert again.dossier is not None
        assert again.dossier.cid == first.dossier.cid
    config = path / "config.json"
    config.write_text(config.read_text() + " ")
    changed = load(path, tmp_path / "home")
    assert changed.identity == first.identity  # the weights are the same
    assert changed.dossier is not None
    assert changed.dossier.card.index != first.dossier.card.index
    shutil.rmtree(path)
    other = load(make_base(path, seed=5), tmp_path / "home")
    assert other.identity != first.identity


def test_a_base_that_no_card_can_describe_is_served_all_the_same(tmp_path: Path) -> None:
    path = make_base(tmp_path / "base")
    os.rename(path / "model.safetensors", path / "mödel.safetensors")
    said: list[str] = []
    base = load_own(path, "base_path", Shelf(tmp_path / "home"), ONE, said.append)
    assert base.dossier is None
    assert base.identity.base == base_id(path)
    assert "mödel.safetensors" in said[0]


def test_where_a_base_comes_from_is_decided_in_one_order(tmp_path: Path) -> None:
    path = make_base(tmp_path / "base")
    shelf = Shelf(tmp_path / "bases")

    def find(**settings: str) -> Base | None:
        return find_base(Config(home=tmp_path, **settings), shelf, ONE, print)  # type: ignore[arg-type]

    here, bundled = base_id(path).hex(), base_id(bundled_weights()).hex()
    found = find(base_path=str(path))
    assert found is not None
    assert (found.origin, found.weights) == ("base_path", path)
    found = find()
    assert found is not None
    assert (found.origin, found.identity.base.hex()) == ("installation", bundled)
    found = find(base=bundled)
    assert found is not None
    assert found.origin == "installation"
    assert find(base=here) is None  # to be fetched
    with pytest.raises(ConfigError, match="leave it empty to fetch it"):
        find(base_path=str(path), base="ab" * 32)
