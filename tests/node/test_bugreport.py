"""A report for strangers: it helps, and tells nobody's secret."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.doctor import Checked
from node.bugreport import OF_PLACES, SECRET_SETTINGS, Report, cross_out, log_lines, write_report
from node.config import Config, dump_config, settings
from node.doctor.reporting import secrets_of
from node.keys import load_keys
from p2p.cid import Cid
from tests.node.cli.test_commands import point_home_at
from tests.node.faces import command
from tests.node.twin import Twin, serve_twin

STAMP = "2026-11-30 10:00:00"
# Unlike anything that a report says by itself.
SECRET = st.text("QXZJqxzj0123456789", min_size=8, max_size=64)
WAYS = (
    "{stamp} answer: Traceback (most recent call last):",
    '  File "/home/{secret}/node/app.py", line 7, in {secret}',
    '    raise ValueError("{secret}")',
    "ValueError: {secret}",
    "{secret}",
    "{stamp} inbound: refused 12345678: {secret}",
    "{stamp} engine: it said '{secret}'",
    "{stamp} money: the chain at https://rpc.example/v3/{secret} is away",
    "{stamp} daemon: joined by lorikeet1-{secret}",
    "{stamp} hub: Authorization Bearer {secret}",
    "{stamp} rejected block from 12345678: {secret}",
)


@given(SECRET, st.lists(st.sampled_from(WAYS)), st.sampled_from(sorted(settings())))
def test_no_text_of_somebody_and_no_secret_stands_in_it(
    secret: str, ways: list[str], setting: str
) -> None:
    lines = [way.format(stamp=STAMP, secret=secret) for way in ways]
    report = Report(
        {"python": "3.11"},
        {setting: secret, "chain_rpc": (secret,), "bootstrap": (secret,)},
        [Checked("chain", "wrong", f"https://user:{secret}@rpc.example: '{secret}'", secret)],
        "lorikeet_peers 1\n",
        lines,
    )
    known = [] if setting in SECRET_SETTINGS | OF_PLACES else [secret]
    assert secret not in write_report(report, known)
    assert secret not in "\n".join(log_lines(lines)), "not even one that nobody knows of"


@given(SECRET, st.text(max_size=50), st.text(max_size=50))
def test_what_is_known_to_be_secret_is_crossed_out_wherever_it_stands(
    secret: str, before: str, behind: str
) -> None:
    report = Report({before: behind + secret}, {}, [], secret, [])
    assert secret not in write_report(report, [secret, secret[:4]])


NAMES = st.one_of(
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.binary(min_size=20, max_size=20).map(lambda data: "0x" + data.hex()),
    st.text(
        "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=45, max_size=45
    ).map(lambda rest: "16Uiu2HAm" + rest),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str).filter(lambda text: len(text) > 4),
    st.tuples(st.ip_addresses(v=4), st.integers(1, 65_535)).map(lambda at: f"{at[0]}:{at[1]}"),
    SECRET.map(lambda name: f"/home/{name}/lorikeet"),
    SECRET.map(lambda name: f"/Volumes/Ada {name}/lorikeet"),
    SECRET.map(lambda name: f"~/{name}"),
    SECRET.map(lambda name: f"wss://{name}.example:4101/p"),
    SECRET.map(lambda name: f"/dns4/{name}.example/tcp/4101"),
    SECRET.map(lambda name: f"{name}@ada.example"),
    st.binary(min_size=32, max_size=32).map(lambda digest: str(Cid(digest))),
)
BY_THE_WAY = (
    "{}",
    "{} hung up",
    "said by {}, twice",
    "(see {})",
    "at={} since",
    "to {}: it is away",
)


@given(NAMES, st.sampled_from(BY_THE_WAY))
def test_nothing_that_names_a_person_or_a_machine_stands_in_it(name: str, way: str) -> None:
    text = way.format(name)
    report = Report(
        {"python": "3.11"},
        {"licence": text},
        [Checked("peers", "note", text)],
        f'lorikeet_peers{{by="{text}"}} 1\n',
        [f"{STAMP} inbound: {text}", f"{STAMP} {text}"],
    )
    written = write_report(report, ())
    assert name not in written
    core = max(re.findall(r"[A-Za-z0-9]{8,}", name), key=len, default=name)
    assert core in "lorikeet" or core not in written, "nor its part that tells"


def test_the_end_of_a_peers_id_which_our_lines_have_is_crossed_out() -> None:
    assert cross_out("refused p3Rq7ZkW") == "refused [peer]"
    assert cross_out("3 requests of aggregator DETAILED in bfloat16, 20261130") == (
        "3 requests of aggregator DETAILED in bfloat16, 20261130"
    )


async def test_the_page_is_given_it_as_text() -> None:
    async with serve_twin(Twin()) as url, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{url}/lorikeet/v1/report")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "wrong gas" in answer.text
    assert f"{STAMP} engine: up" in answer.text


@pytest.mark.parametrize(
    "text",
    [
        "peer at /ip4/203.0.113.7/tcp/4101",
        "203.0.113.7:4101 hung up",
        "2001:db8::7 hung up",
        "see wss://203.0.113.7/x",
    ],
)
def test_addresses_are_crossed_out(text: str) -> None:
    assert "203.0.113.7" not in cross_out(text)
    assert "2001:db8" not in cross_out(text)


def test_what_helps_is_left() -> None:
    assert log_lines(
        [
            f"{STAMP} engine: ready, base 96b91f746d43, float32, 1 threads",
            f"{STAMP} answer: Traceback (most recent call last):",
            '  File "/srv/lorikeet/node/answering/service.py", line 71, in _run',
            f"{STAMP} settlement: claimed 3 vouchers",
        ]
    ) == [
        f"{STAMP} engine: ready, base 96b91f746d43, float32, 1 threads",
        f"{STAMP} answer: Traceback (most recent call last):",
        "  node/answering/service.py, line 71",
        f"{STAMP} settlement: claimed 3 vouchers",
    ]


async def test_the_command_reports_a_running_node_without_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORIKEET_PASSWORD", "open-sesame")
    config = Config(home=tmp_path, network_key="ab" * 32, prompt_price=7, mdns=True)
    vllm = {"engine": "vllm", "engine_url": "http://127.0.0.1:8000", "engine_key": "sesame-key"}
    written = dump_config(dataclasses.replace(config, **vllm))
    (tmp_path / "lorikeet.toml").write_text(written)
    key = load_keys(config.key_files).operator.secret.hex()
    (tmp_path / "log").write_text(f"{STAMP} daemon: {key} open-sesame\n{STAMP} daemon: stopped\n")
    assert {key, "open-sesame", "ab" * 32} <= {*secrets_of(tmp_path, config)}
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        done = await command(tmp_path, "bugreport")
    assert done.exit_code == 0, done.output
    for secret in (key, "open-sesame", "sesame-key", "ab" * 32, str(tmp_path)):
        assert secret not in done.stdout
    for told in ("prompt_price = 7", "daemon: stopped", "wrong gas", "ok peers", "python: 3"):
        assert told in done.stdout
    nothing = await command(tmp_path / "nothing", "bugreport", str(tmp_path / "file"))
    assert nothing.exit_code == 0, nothing.output
    assert "wrong home" in (tmp_path / "file").read_text()
    assert os.getcwd() not in nothing.output
