from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import CONFIG_FILE, Config, dump_config, load_config, settings
from node.errors import ConfigError

plain = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=20
)


def test_every_setting_is_explained() -> None:
    for name, setting in settings().items():
        assert len(setting.metadata["what it sets"]) > 10, name


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


SELLING_GATEWAY = """
role = 'gateway'
sell = '127.0.0.1:4182'
chain_rpc = ['http://127.0.0.1:8545']
"""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("htp_port = 1", "did you mean 'http_port'"),
        ('http_port = "x"', "http_port"),
        ("role = 'king'", "volunteer"),
        ("http_port = ", CONFIG_FILE),
        ("chain_rpc = 'http://127.0.0.1:1'", "settlement"),
        ("channel_deposit = 0", "channel_deposit"),
        ("first_deposit = 0", "first_deposit"),
        ("max_locked = 0", "max_locked"),
        ("max_guest_bytes = -1", "max_guest_bytes"),
        ("max_upload_bytes_s = -1", "max_upload_bytes_s is -1; use 0 or more"),
        ("max_download_bytes_s = -1", "max_download_bytes_s"),
        ("engine = 'ours'", "engine is 'ours'; use one of own, vllm"),
        ("engine_url = 'http://127.0.0.1:8000'", 'engine_url is set, so engine = "vllm"'),
        ("engine = 'vllm'", "engine_url is ''; say where vLLM answers"),
        ("engine = 'vllm'\nengine_url = 'http://a:1/v1'", "without a path"),
        ("engine = 'vllm'\nengine_url = 'http://a:1'\nkv_tokens = 9", "kv_tokens is set beside"),
        ("verify_elsewhere = true", "so auditors must be set too"),
        ("http_port = true", "whole number"),
        ("http_port = 1.5", "whole number"),
        ("network = 7", "'network' is 7; it takes a text"),
        ("epoch_s = 'soon'", "'epoch_s' is 'soon'; it takes a number"),
        ("listen = 4101", "listen"),
        ("listen = [4101]", "list of texts"),
        ("sell = '4182'", "sell is '4182'; use host:port"),
        ("sell = '127.0.0.1:4182'", "chain_rpc must be set"),
        (SELLING_GATEWAY, r"prompt_price \(10\) and completion_price \(50\) must be above"),
        (SELLING_GATEWAY + "facilitator = 'here'", "use a URL"),
    ],
)
def test_a_wrong_setting_is_named_with_the_mend(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_config(tmp_path, env={})


@given(st.lists(plain.filter(lambda text: text.strip()), max_size=3))
def test_a_list_in_a_variable_may_be_an_array(texts: list[str]) -> None:
    env = {"LORIKEET_LISTEN": json.dumps(texts, ensure_ascii=False)}
    assert load_config(Path("nowhere"), env=env).listen == tuple(texts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("", ()), ("a", ("a",)), ("a, b,", ("a", "b")), (" ['a', \"b\"] ", ("a", "b")), ("[]", ())],
)
def test_a_list_in_a_variable_may_be_parts_between_commas(
    text: str, parts: tuple[str, ...]
) -> None:
    assert load_config(Path("nowhere"), env={"LORIKEET_LISTEN": text}).listen == parts


@pytest.mark.parametrize("text", ["[", '["a"', '["a", 1]', '["a"]]', "[a]"])
def test_half_an_array_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^setting 'listen' is .*; it takes a list of texts"):
        load_config(Path("nowhere"), env={"LORIKEET_LISTEN": text})


@pytest.mark.parametrize(
    "url",
    [
        "huggingface.co",
        "https://hub.example/",
        "https://me:word@hub.example",
        "ftp://hub",
        "https://a?b",
    ],
)
def test_an_origin_that_is_no_plain_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="hub_origin"):
        Config(tmp_path, hub_origin=url)


@pytest.mark.parametrize("url", ["", "https://huggingface.co", "http://127.0.0.1:4180/hub"])
def test_an_origin_is_a_url(tmp_path: Path, url: str) -> None:
    assert Config(tmp_path, hub_origin=url).hub_origin == url
