from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest
import trio

from node import __main__ as entry
from node.api.status import StatusInfo
from node.api.verifying import Verdict
from node.cli.ask import auto_line
from node.errors import NoChannel
from node.running import RUNNING_FILE, Running
from tests.node.forked import forked_python
from tests.node.twin import CHANNEL, PEER, RECEIPT, STUCK, WORDS, Twin, serve_twin


def point_home_at(home: Path, url: str) -> None:
    (home / RUNNING_FILE).write_bytes(msgspec.json.encode(Running(os.getpid(), url, [], PEER)))


async def lorikeet(
    home: Path, *arguments: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "LORIKEET_HOME": str(home)}
    python = forked_python()
    with trio.fail_after(60):
        return await trio.run_process(
            [python, "-m", "node", *arguments],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=env,
        )


def test_the_first_process_of_a_container_ends_by_a_signal_that_comes_before_it_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = {}
    monkeypatch.setattr("os.getpid", lambda: 1)
    monkeypatch.setattr("signal.signal", asked.__setitem__)
    monkeypatch.setattr("node.cli.app.main", lambda: None)
    entry.main()
    with pytest.raises(SystemExit) as ended:
        asked[signal.SIGTERM](signal.SIGTERM, None)
    assert ended.value.code == 128 + signal.SIGTERM


async def test_run_streams_the_answer_to_stdout_and_the_facts_to_stderr(tmp_path: Path) -> None:
    twin = Twin()
    async with serve_twin(twin) as url:
        point_home_at(tmp_path, url)
        done = await lorikeet(
            tmp_path,
            "run",
            "law",
            "May I?",
            "--seed",
            "7",
            "--system",
            "Be brief.",
            "--node",
            "16Uiu2HAmOther",
        )
        piped = await lorikeet(tmp_path, "run", "law", "--raw", stdin=b"Once upon\n")
        as_json = await lorikeet(tmp_path, "run", "law", "May I?", "--json")
    assert done.returncode == 0
    assert done.stdout.decode() == "".join(WORDS) + "\n"
    facts = done.stderr.decode()
    assert all(
        part in facts
        for part in (
            "law served by",
            "8 tokens",
            "first after 20 ms",
            "paid 0.000470 LORI",
            RECEIPT.digest[:12],
        )
    )
    assert [turn.role for turn in twin.asked[0].prompt] == ["system", "user"]
    assert (twin.asked[0].seed, twin.asked[0].node) == (7, "16Uiu2HAmOther")
    assert (piped.returncode, twin.asked[1].prompt) == (0, "Once upon")
    answer = json.loads(as_json.stdout)
    assert (answer["text"], answer["receipt"], answer["usage"]["completion_tokens"]) == (
        "".join(WORDS),
        RECEIPT.digest,
        len(WORDS),
    )


@pytest.mark.parametrize(
    "command", ["status", "peers", "list", "receipts", "earnings", "channels", "ps"]
)
async def test_what_is_looked_at_comes_as_lines_and_as_json(tmp_path: Path, command: str) -> None:
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        plain = await lorikeet(tmp_path, command)
        as_json = await lorikeet(tmp_path, command, "--json")
    assert (plain.returncode, as_json.returncode) == (0, 0)
    assert b"\x1b" not in plain.stdout
    assert all("\t" in line for line in plain.stdout.decode().splitlines())
    json.loads(as_json.stdout)


async def test_ps_says_why_each_adapter_is_here(tmp_path: Path) -> None:
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        plain = await lorikeet(tmp_path, "ps")
        as_json = await lorikeet(tmp_path, "ps", "--json")
    lines = [line.split("\t") for line in plain.stdout.decode().splitlines()]
    assert ["law", "1", "1.8 MB", "fetched ahead: many want it"] in [line[:4] for line in lines]
    assert ["law:0.7+verse:0.3", "", "9.0 MB", "mixed for who asked, in memory"] in [
        line[:4] for line in lines
    ]
    held, _ = json.loads(as_json.stdout)["adapters"]
    assert (held["name"], held["why"], held["used_at"]) == ("law", "ahead", 1_794_000_000.0)


async def test_mirror_says_where_a_hubs_client_finds_adapters(tmp_path: Path) -> None:
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        plain = await lorikeet(tmp_path, "mirror")
        as_json = await lorikeet(tmp_path, "mirror", "--json")
        endpoint = json.loads(as_json.stdout)["HF_ENDPOINT"]
        async with httpx.AsyncClient(trust_env=False) as client:
            found = await client.get(f"{endpoint}/api/models/law")
    assert plain.stdout.decode() == f"export HF_ENDPOINT={endpoint}\n"
    assert json.loads(as_json.stdout)["origin"] == ""
    assert found.json()["sha"] == "ab" * 20


class BesideAnother(Twin):
    async def status(self) -> StatusInfo:
        return replace(await super().status(), hub_origin="https://hub.example")


async def test_mirror_says_which_hub_stands_behind_it(tmp_path: Path) -> None:
    async with serve_twin(BesideAnother()) as url:
        point_home_at(tmp_path, url)
        plain = await lorikeet(tmp_path, "mirror")
        as_json = await lorikeet(tmp_path, "mirror", "--json")
    assert "all else from https://hub.example" in plain.stderr.decode()
    assert json.loads(as_json.stdout)["origin"] == "https://hub.example"


class NoCatalogue(Twin):
    async def status(self) -> StatusInfo:
        return replace(await super().status(), role="aggregator", base="")


async def test_mirror_says_which_daemon_has_no_adapters(tmp_path: Path) -> None:
    async with serve_twin(NoCatalogue()) as url:
        point_home_at(tmp_path, url)
        refused = await lorikeet(tmp_path, "mirror")
    assert refused.returncode == 1
    assert "aggregator" in refused.stderr.decode()
    assert refused.stdout == b""


async def test_money_is_taken_out_of_one_channel_or_of_all(tmp_path: Path) -> None:
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        one = await lorikeet(tmp_path, "withdraw", CHANNEL.channel)
        every = await lorikeet(tmp_path, "withdraw", "--all", "--json")
        none = await lorikeet(tmp_path, "withdraw")
        unknown = await lorikeet(tmp_path, "withdraw", "ab")
    assert one.stdout.decode().splitlines()[1].split("\t")[:2] == [CHANNEL.channel, "withdrawing"]
    assert json.loads(every.stdout)[0]["available_at"] == 1_800_000_000
    assert (none.returncode, unknown.returncode) == (2, 1)
    assert "--all" in none.stderr.decode()


async def test_why_zero_names_each_unit_what_it_waits_for_and_until_when(tmp_path: Path) -> None:
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        plain = await lorikeet(tmp_path, "earnings", "--why-zero")
        as_json = await lorikeet(tmp_path, "earnings", "--why-zero", "--json")
    (line,) = plain.stdout.decode().splitlines()[1:]
    what, amount, token, waits_for, until, why = line.split("\t")
    assert (what, amount, token) == (RECEIPT.digest, "0.000620", "LORI")
    assert (waits_for, why) == ("epoch", STUCK.detail)
    assert until.startswith("2027-01-1")
    assert json.loads(as_json.stdout) == [msgspec.to_builtins(STUCK)]


@pytest.mark.parametrize(("verdict", "status"), [("agrees", 0), ("differs", 4), ("unknown", 5)])
async def test_why_says_whose_text_an_answer_drew_on(
    tmp_path: Path, verdict: Verdict, status: int
) -> None:
    async with serve_twin(Twin(verdict=verdict)) as url:
        point_home_at(tmp_path, url)
        plain = await lorikeet(tmp_path, "why", RECEIPT.digest)
    assert plain.returncode == status, plain.stderr
    said = plain.stdout.decode()
    assert "Answer of 12 tokens by law@1" in said
    assert "  The [court finds]¹ that all [is well.]²\n" in said
    assert "¹ Farida, contribution 1, document 4: 2 tokens, 31 bits" in said
    assert "² Karim, “Notes on Part III”, document 4: 2 tokens, 9 bits" in said
    assert (
        "Karim, “Notes on Part III”, is contribution 5f5f5f5f5f5f of datanet c0c0c0c0c0c0\n" in said
    )
    assert "bits   Farida 118  Karim 74" in said
    assert "λ 3/8 by this answer" in said
    assert "r 0.39 [0.31, 0.46]" in said
    assert "0.000248 LORI  data     Farida" in said
    assert verdict in said


@pytest.mark.parametrize(("verdict", "status"), [("agrees", 0), ("differs", 4), ("unknown", 5)])
async def test_verify_answer_says_what_was_compared(
    tmp_path: Path, verdict: Verdict, status: int
) -> None:
    async with serve_twin(Twin(verdict=verdict)) as url:
        point_home_at(tmp_path, url)
        plain = await lorikeet(tmp_path, "verify-answer", RECEIPT.digest)
        as_json = await lorikeet(tmp_path, "verify-answer", RECEIPT.digest, "--json")
    assert (plain.returncode, as_json.returncode) == (status, status), plain.stderr
    said = plain.stdout.decode()
    assert "Answer of 12 tokens by bafkreilaw" in said
    assert "made in bfloat16, replayed in float32; limits calibrated by its creator" in said
    assert "0.2100 a token, 0.0150 allowed" in said
    assert "the bare base gives its tokens" in said
    assert f"{verdict}: replayed" in said
    assert json.loads(as_json.stdout)["fits_base"] is True


async def test_an_audit_says_what_was_found_and_what_failed(tmp_path: Path) -> None:
    twin = Twin(verdict="differs")
    async with serve_twin(twin) as url:
        point_home_at(tmp_path, url)
        done = await lorikeet(tmp_path, "audit", "16Uiu2HAmNode", "--model", "law", "--within", "9")
        again = await lorikeet(tmp_path, "audit", "--check", str(tmp_path / "abab.audit"), "--json")
        nobody = await lorikeet(tmp_path, "audit")
        heard = await lorikeet(tmp_path, "attestations", "--of", "0x" + "77" * 20)
    assert (done.returncode, again.returncode, nobody.returncode) == (4, 4, 2), done.stderr
    [said] = twin.audited
    assert (said.node, said.model, said.canaries, said.within_s) == ("16Uiu2HAmNode", "law", 8, 9.0)
    assert "11 of 12 tokens did not win" in done.stdout.decode()
    assert "canary 2: it left no receipt" in done.stdout.decode()
    assert json.loads(again.stdout)["commitment"] == "abab.audit"
    assert b"--check" in nobody.stderr
    assert "its node is watched" in heard.stdout.decode()


async def test_an_opened_verdict_is_written_and_whoever_is_given_it_recomputes_it(
    tmp_path: Path,
) -> None:
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        told = await lorikeet(tmp_path, "verify-answer", RECEIPT.digest, "--open", "opened")
        again = await lorikeet(tmp_path, "verify-answer", "opened")
    assert (told.returncode, again.returncode) == (0, 0), again.stderr
    assert "who says that it agrees" in again.stdout.decode()


async def test_commands_of_money_say_what_they_lack_and_the_mend(tmp_path: Path) -> None:
    for command in (["verify"], ["watch"], ["aggregator", "status"]):
        done = await lorikeet(tmp_path, *command)
        assert done.returncode == 2
        assert "set chain_rpc in" in done.stderr.decode()
    wrong = await lorikeet(tmp_path, "aggregator", "rebuild")
    assert (wrong.returncode, b"not of an aggregator" in wrong.stderr) == (2, True)
    account = await lorikeet(tmp_path, "claim", "--for", "0x12")
    assert (account.returncode, b"40 hex digits" in account.stderr) == (2, True)


async def test_pull_reports_who_sent_what_and_who_was_rejected(tmp_path: Path) -> None:
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        done = await lorikeet(tmp_path, "pull", "law")
        unknown = await lorikeet(tmp_path, "pull", "lwa")
    assert "16Uiu2HAmLiar: wrong bytes" in done.stdout.decode()
    assert unknown.returncode == 1
    assert "did you mean law?" in unknown.stderr.decode()


async def test_show_says_whose_an_adapter_is_and_what_is_like_it(tmp_path: Path) -> None:
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        done = await lorikeet(tmp_path, "show", "law")
        unknown = await lorikeet(tmp_path, "show", "lwa")
    assert done.returncode == 0, done.stderr.decode()
    lines = dict(line.split("\t", 1) for line in done.stdout.decode().splitlines())
    assert lines["weights"] == "ab" * 32
    assert "to 0x1111" in lines["registered"]
    assert "did NOT sign" in lines["registered"]
    assert lines["royalty"] == "2.5 %"
    assert "cosine 0.9800 over 210 modules" in lines["alike"]
    assert (unknown.returncode, b"did you mean law?" in unknown.stderr) == (1, True)


async def test_unpin_says_what_makes_room(tmp_path: Path) -> None:
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        done = await lorikeet(tmp_path, "unpin", "law")
        unknown = await lorikeet(tmp_path, "unpin", "lwa")
    assert "bafkreilaw" in done.stdout.decode()
    assert (unknown.returncode, b"did you mean law?" in unknown.stderr) == (1, True)


async def test_exit_codes_tell_apart_errors_usage_and_no_daemon(tmp_path: Path) -> None:
    async with serve_twin(Twin(error=NoChannel("no channel to that node; deposit first"))) as url:
        point_home_at(tmp_path, url)
        failed = await lorikeet(tmp_path, "run", "law", "May I?")
        nothing_asked = await lorikeet(tmp_path, "run", "law")
    point_home_at(tmp_path, "http://127.0.0.1:9")
    no_daemon = await lorikeet(tmp_path, "status")
    usage = await lorikeet(tmp_path, "push", str(tmp_path / "absent"))
    assert [one.returncode for one in (failed, nothing_asked, no_daemon, usage)] == [1, 2, 3, 2]
    assert failed.stderr.decode() == "error: no channel to that node; deposit first\n"
    assert f"lorikeet up --home {tmp_path}" in no_daemon.stderr.decode()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("top-p", "0"),
        ("top-k", str(1 << 24)),
        ("min-p", "1.1"),
        ("repetition-penalty", "0"),
        ("temperature", "nan"),
        ("temperature", "2.5"),
    ],
)
async def test_a_term_out_of_its_bounds_is_refused_by_name(
    tmp_path: Path, option: str, value: str
) -> None:
    twin = Twin()
    async with serve_twin(twin) as url:
        point_home_at(tmp_path, url)
        refused = await lorikeet(tmp_path, "run", "law", "May I?", f"--{option}", value)
    assert refused.returncode != 0
    assert option.replace("-", "_") in refused.stderr.decode()
    assert twin.asked == []


async def test_interrupting_a_run_cancels_its_answer(tmp_path: Path) -> None:
    twin = Twin(word_delay_s=0.5)
    async with serve_twin(twin) as url:
        point_home_at(tmp_path, url)
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "node", "run", "law", "May I?", "--home", str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=partial(
                signal.signal, signal.SIGINT, signal.SIG_DFL
            ),  # whoever runs the tests in the background ignores it
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with trio.fail_after(60):
                assert await process.stdout.receive_some() == b"The"
                process.send_signal(signal.SIGINT)
                await twin.cancelled.wait()
                assert await process.wait() == 130
            assert b"cancelled" in await process.stderr.receive_some()
        finally:
            process.kill()
            await process.stdout.aclose()
            await process.stderr.aclose()


def read_all(leader: int) -> bytes:
    """All that a terminal was told; the kernel says EIO at its end."""
    told = b""
    with os.fdopen(leader, "rb", buffering=0) as file:
        try:
            while part := file.read(4096):
                told += part
        except OSError:
            pass
    return told


def test_help_is_grouped_and_coloured_on_a_terminal() -> None:
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    subprocess.run(
        [sys.executable, "-m", "node", "--help"], stdout=follower, env=env, check=True, timeout=120
    )
    os.close(follower)
    text = read_all(leader).decode()
    assert "\x1b[" in text
    assert all(
        verb in text
        for verb in (
            "init",
            "up",
            "run",
            "pull",
            "push",
            "list",
            "ps",
            "peers",
            "receipts",
            "earnings",
            "testnet",
            "Money",
        )
    )


async def test_a_list_is_set_as_an_array_and_a_wrong_value_is_named_in_one_line(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    listen = '["/ip4/127.0.0.1/tcp/4101", "/ip6/::1/tcp/4101"]'
    wrong = await lorikeet(home, "init", "--home", str(home), "--set", 'listen=["/ip4')
    assert wrong.returncode == 1
    assert wrong.stderr.decode().startswith("error: setting 'listen' is '[\"/ip4'; it takes a list")
    assert len(wrong.stderr.splitlines()) == 1
    done = await lorikeet(home, "init", "--home", str(home), "--set", f"listen={listen}")
    assert done.returncode == 0, done.stderr
    assert f"\nlisten = {listen}\n" in (home / "lorikeet.toml").read_text()


@pytest.mark.parametrize(
    "address", ["garbage", "/ip4/127.0.0.1/tcp/4101/nonsense", "/ip4/192.0.2.77/tcp/0"]
)
async def test_up_says_in_one_line_where_it_cannot_listen(tmp_path: Path, address: str) -> None:
    toml = f'role = "bootstrap"\nlisten = ["{address}"]\nhttp_port = 0\n'
    (tmp_path / "lorikeet.toml").write_text(toml)
    done = await lorikeet(tmp_path, "up", "--home", str(tmp_path))
    assert done.returncode == 1
    said = [line for line in done.stderr.decode().splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert address in said[0]
    assert "lorikeet.toml" in said[0]
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("chosen", "second", "line"),
    [
        (("law", "bafy", 0.31), ("verse", "bafz", 0.052), "0.31, before verse (0.05)"),
        (("law", "bafy", 0.31), None, "0.31"),
        (("base", None, 0.0), ("law", "bafy", 0.02), "no adapter fits, the nearest is law (0.02)"),
        (("base", None, 0.0), None, "no adapter fits"),
    ],
)
def test_the_line_of_facts_says_what_auto_chose(
    chosen: tuple[str, str | None, float], second: tuple[str, str, float] | None, line: str
) -> None:
    told = {
        name: one and dict(zip(("model", "cid", "score"), one, strict=True))
        for name, one in (("model", chosen), ("runner_up", second))
    }
    assert auto_line(told) == f"auto: {line}"
    assert not auto_line(None)


async def test_a_peer_is_banned_and_what_is_not_banned_is_named(tmp_path: Path) -> None:
    twin = Twin()
    async with serve_twin(twin) as url:
        point_home_at(tmp_path, url)
        banned = await lorikeet(tmp_path, "peers", "ban", "16Uiu2HAmBad", "--why", "floods")
        wrong = await lorikeet(tmp_path, "peers", "unban", "16Uiu2HAmGood")
    assert [(one.peer_id, one.why) for one in twin.bans] == [("16Uiu2HAmBad", "floods")]
    assert banned.stdout.decode().splitlines()[-1].split("\t")[::2] == ["16Uiu2HAmBad", "floods"]
    assert wrong.returncode == 1
    assert "peers banned" in wrong.stderr.decode()
