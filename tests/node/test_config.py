from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import CONFIG_FILE, WHAT_IT_SETS, Config, dump_config, load_config
from node.errors import ConfigError

plain = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=20
)


def test_every_setting_is_explained() -> None:
    assert list(WHAT_IT_SETS) == [
        field.name for field in dataclasses.fields(Config) if field.name != "home"
    ]


@given(
    network=plain,
    port=st.integers(0, 65535),
    epoch_s=st.floats(0.1, 1e6),
    bootstrap=st.lists(plain.filter(bool), max_size=3).map(tuple),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    network: str,
    port: int,
    epoch_s: float,
    bootstrap: tuple[str, ...],
) -> None:
    home = tmp_path_factory.mktemp("home")
    config = Config(home, network=network, http_port=port, epoch_s=epoch_s, bootstrap=bootstrap)
    (home / CONFIG_FILE).write_text(dump_config(config))
    assert load_config(home, env={}) == config


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text('http_port = 1\nbootstrap = ["a", "b"]\n')
    assert load_config(tmp_path, env={"LORIKEET_HTTP_PORT": "2"}).http_port == 2
    assert load_config(tmp_path, env={"LORIKEET_BOOTSTRAP": "c,d"}).bootstrap == ("c", "d")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("htp_port = 1", "did you mean 'http_port'"),
        ('http_port = "x"', "http_port"),
        ("role = 'king'", "volunteer"),
        ("http_port = ", CONFIG_FILE),
        ("chain_rpc = 'http://127.0.0.1:1'", "settlement"),
        ("channel_deposit = 0", "channel_deposit"),
    ],
)
def test_a_wrong_setting_is_named_with_the_mend(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_config(tmp_path, env={})
