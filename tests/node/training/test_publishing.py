"""What is published of a run, what is refused, and what anybody finds who checks it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio

from factory import measured
from factory.training.folder import WEIGHTS
from node.api.training import PublishSaid
from node.daemon import NodeDaemon
from node.errors import BadRequest
from node.training.desk import TrainingDesk
from p2p.cid import Cid
from proofs.attribution.shares import CONTRIBUTOR, terms_of
from proofs.attribution.tokens import Contribution, read_tokens, write_tokens
from proofs.hextext import to_hex
from proofs.manifest import parse_manifest
from proofs.receipt import decode_body, decode_receipt, derive_shares

from ..datanets import people
from ..datanets.people import charter, giving, hush
from ..faces import shown
from ..forked import forked_python
from ..networks import ask, open_lab, until
from ..tiny import make_adapter
from .test_face import command, serving, told, train_by_forks, write_story

SMALL = "epochs = 1\nsteps = 6\n[rows]\nwindow = 64\n[evaluate]\ntokens = 8\n[adapter]\nrank = 2"


@dataclass
class Kitchen:
    """A datanet that Ann began, whose texts are hers and the trainer's."""

    folder: Path
    daemon: NodeDaemon
    ann: NodeDaemon

    async def train(self, name: str, *source: str) -> Path:
        """Train a few steps by a recipe; the run's folder."""
        recipe = self.folder / f"{name}.toml"
        made = await command(self.folder, "new", name, *source, "--out", str(recipe))
        assert made.exit_code == 0, (made.output, made.exception)
        if "--datanet" in source:
            head = recipe.read_text().partition("[adapter]")[0]
            recipe.write_text(f"{head}[train]\n{SMALL}\n")
        await told(self.folder, "start", str(recipe), "--threads", "1")
        watched = await command(self.folder, "watch", name)
        assert watched.exit_code == 0, watched.exception
        await until(lambda: not self.daemon.training._runs.is_alive)
        return self.folder / "home" / "runs" / name

    async def publish(self, *arguments: str) -> Any:
        return await told(self.folder, "publish", *arguments)

    async def refused(self, *arguments: str) -> str:
        """Why a run is not published."""
        done = await command(self.folder, "publish", *arguments)
        assert done.exit_code == 1, done.output
        return str(done.exception)

    async def verify(self, *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
        """The exit status, and how each thing came out and why."""
        done = await command(self.folder, "verify", *arguments, "--json")
        assert done.stdout, done.exception
        compared = json.loads(done.stdout)["compared"]
        return done.exit_code, {one["what"]: (one["outcome"], one["why"]) for one in compared}


@asynccontextmanager
async def kitchen(folder: Path) -> AsyncIterator[Kitchen]:
    """Texts of two people: of Ann, who writes the log, and of the trainer."""
    async with people.daemon(folder / "ann") as ann:
        made = await ann.datanets.create(charter("kitchen", languages=()))
        token = await ann.datanets.invite("kitchen", uses=1, days=1)
        async with serving(folder, *ann.host.addresses) as (daemon, _):
            await daemon.datanets.join(token, "Ben")
            for seed, giver in enumerate((ann, daemon, ann)):
                text = write_story(folder / f"{seed}.jsonl", seed)
                said = giving(text, title=f"Story {seed}")
                given = await giver.datanets.give(made.id, said, hush)
                for one in given.contributions:
                    await until(lambda one=one: _is_here(ann, one.id))
                    await ann.datanets.judge(made.id, one.id, "accept", ("", "", ""))
            await ann.datanets.make_version(made.id)
            yield Kitchen(folder, daemon, ann)


async def _is_here(daemon: NodeDaemon, contribution: str) -> bool:
    detail = await daemon.datanets.show("kitchen")
    return any(one.id == contribution and one.is_here for one in detail.contributions)


def copy_of(run: Path, name: str) -> Path:
    """The same run under another name, to be spoilt."""
    copy = run.with_name(name)
    shutil.copytree(run, copy)
    return copy


def change(path: Path, **values: object) -> None:
    """Change some of what a JSON file says."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def pretend_measured(run: Path, background: Path) -> None:
    """Leave what an influence run leaves that found the first person's text to be all of it."""
    folder = run / measured.FOLDER
    folder.mkdir()
    shutil.copyfile(background, folder / "background.tokens")
    made = measured.Made(((0,), (1,)), (100, 100), trainings=5, tokens=200, of_tokens=200)
    first = measured.Unit("a", 10_000, 1.0, 0.5, 100)
    second = measured.Unit("b", 0, 1.0, -0.1, 100)
    r = measured.Figure(0.2, -0.1, 0.5)
    found = measured.Measured((first, second), 40, 0, 6, r, None, missing=(), note="")
    (folder / measured.MADE_FILE).write_bytes(msgspec.json.encode(made))
    (folder / measured.RESULT_FILE).write_bytes(msgspec.json.encode(found))


def test_texts_that_a_killed_daemon_left_are_gone_when_the_next_begins(tmp_path: Path) -> None:
    left = tmp_path / ".texts.4321" / "0"
    left.mkdir(parents=True)
    (left / "documents.jsonl").write_text("somebody's words")
    kept = tmp_path / ".backgrounds"
    kept.mkdir()
    nothing: Any = None
    TrainingDesk(tmp_path, nothing, nothing)
    assert list(tmp_path.iterdir()) == [kept]


async def test_a_run_becomes_a_version_that_says_what_it_was_made_of(tmp_path: Path) -> None:
    async with kitchen(tmp_path) as net:
        run = await net.train("cook", "--datanet", "kitchen")
        looked = await net.publish("cook", "--anyway", "--dry-run", "--licence", "CC0-1.0")
        assert looked["cid"] == ""
        assert await net.daemon.adapters() == []
        offer = Path(looked["folder"])
        about = tomllib.loads((offer / "lorikeet.toml").read_text())
        assert len(about["contributors"]) == 2
        assert sum(one["weight"] for one in about["contributors"]) == 10_000
        assert about["attribution"]["answers"] == 0
        assert (offer / "recipe.toml").read_bytes() == (run / "recipe.toml").read_bytes()
        assert "Ben" in (offer / "card.md").read_text()

        first = await net.publish("cook", "--anyway")
        again = await net.publish("cook", "--anyway")
        assert first["version"] == "1"
        assert again["cid"] == first["cid"]  # the same is no new version
        assert (await ask(net.daemon, model="cook")).started.cid == first["cid"]

        newer = await net.train("cook-2", "--from", "cook")
        second = await net.publish("cook-2", "--as", "cook", "--anyway", "--describe", "Newer.")
        assert second["version"] == "2"
        assert (await ask(net.daemon, model="cook")).started.cid == second["cid"]
        await net.daemon.roll_back("cook@1")
        assert (await ask(net.daemon, model="cook")).started.cid == first["cid"]
        assert (await ask(net.daemon, model="cook@2")).started.cid == second["cid"]

        pretend_measured(newer, Path(second["folder"]) / "background.tokens")
        third = await net.publish("cook-2", "--as", "cook", "--anyway")
        assert (third["version"], third["answers"]) == ("3", 40)
        assert sorted(one["part"] for one in third["paid"]) == [0.0, 1.0]
        manifest = parse_manifest(await net.daemon.block(Cid.parse(third["cid"]).digest.hex()))
        origin = manifest.made_of
        assert origin is not None
        assert origin.attribution is not None
        assert origin.attribution.lambda_eighths == 6
        assert origin.attribution.r_interval == (-1000, 5000)
        assert origin.attribution.lds_interval == (-10_000, 10_000)
        status, compared = await net.verify("cook@3")
        assert status == 0, compared
        assert "on 40 answers" in compared["weights of people"][1]


async def test_an_answer_by_what_was_trained_pays_who_gave_the_texts(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=("home", "client", "aggregator")) as lab:
        home = tmp_path / "home"
        async with lab.daemon("home") as node, lab.daemon("client", role="gateway") as client:
            train_by_forks(node)
            async with shown(node, home):
                made = await node.datanets.create(charter("kitchen", languages=()))
                text = write_story(tmp_path / "story.jsonl", 1)
                given = await node.datanets.give(made.id, giving(text), hush)
                story = given.contributions[0]
                await node.datanets.judge(made.id, story.id, "accept", ("", "", ""))
                await node.datanets.make_version(made.id)
                net = Kitchen(tmp_path, node, node)
                await net.train("cook", "--datanet", "kitchen")
                published = await net.publish("cook", "--anyway")
            manifest = parse_manifest(await node.block(Cid.parse(published["cid"]).digest.hex()))
            (giver,) = manifest.contributors
            assert to_hex(giver.address) == story.pay_to.lower()
            origin = manifest.made_of
            assert origin is not None
            assert [one.datanet.hex() for one in origin.datanets] == [made.id]
            recipe = (home / "runs" / "cook" / "recipe.toml").read_bytes()
            assert origin.recipe == hashlib.sha256(recipe).digest()

            await ask(client, model=published["cid"], max_tokens=16)  # has both fetch the index
            opened = "indexes_opened"
            await until(lambda: all(opened in one.telemetry.counters for one in (node, client)))
            answered = await ask(client, model=published["cid"], max_tokens=16)
            assert answered.ended.receipt is not None
            receipt = decode_body(decode_receipt(await client.receipt(answered.ended.receipt)).body)
            parts = {
                (one.role, one.address): one.weight
                for one in derive_shares(receipt, terms_of(manifest))
            }
            assert parts[CONTRIBUTOR, giver.address] == 1_500
            assert (await client.why(answered.ended.receipt)).verdict == "agrees"


async def test_what_cannot_be_published_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with kitchen(tmp_path) as net:
        run = await net.train("cook", "--datanet", "kitchen")

        change(copy_of(run, "early") / "status.json", state="paused")
        assert "lorikeet train resume early" in await net.refused("early")

        assert "--anyway publishes it" in await net.refused("cook")

        (copy_of(run, "untried") / "evaluation.json").unlink()
        assert "python -m factory.training" in await net.refused("untried", "--anyway")

        damaged = copy_of(run, "damaged")
        whole = (damaged / WEIGHTS).read_bytes()
        (damaged / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert "is not what the run made" in await net.refused("damaged", "--anyway")
        mend = [forked_python(), "-m", "factory.training", str(damaged)]
        await trio.run_process(mend, stdin=subprocess.DEVNULL, capture_stdout=True)
        assert (damaged / WEIGHTS).read_bytes() == whole
        assert (await net.publish("damaged", "--anyway", "--dry-run"))["folder"]

        recipe = (run / "recipe.toml").read_text()
        other = copy_of(run, "other") / "recipe.toml"
        for field, mend in (
            ("base", "start one with that base"),
            ("tokenizer", "put the base's files back"),
            ("template", "put the base's files back"),
        ):
            line = next(one for one in recipe.splitlines() if one.startswith(f"{field} = "))
            other.write_text(recipe.replace(line, f'{field} = "{"0c" * 32}"'))
            assert mend in await net.refused("other", "--anyway")
        made = (await net.ann.datanets.show("kitchen")).info.id
        other.write_text(recipe.replace(made, "0d" * 32))
        assert "lorikeet datanet list" in await net.refused("other", "--anyway")

        rows = copy_of(run, "changed") / "rows.npy"
        ids = np.load(rows)
        ids[0, 0] += 1
        np.save(rows, ids)
        assert "the run's folder was changed" in await net.refused("changed", "--anyway")

        said = PublishSaid(anyway=True, dry_run=True)
        with pytest.raises(ExceptionGroup) as group:
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(net.daemon.training.publish, "cook", said, hush)
        (twice,) = group.value.exceptions
        assert isinstance(twice, BadRequest)
        assert "is being published already" in str(twice)


async def test_what_was_withdrawn_is_published_by_nobody_who_trained_on_it(tmp_path: Path) -> None:
    async with kitchen(tmp_path) as net:
        await net.train("cook", "--datanet", "kitchen")
        await net.publish("cook", "--anyway")
        status, compared = await net.verify("cook")
        assert (status, {one for one, _ in compared.values()}) == (0, {"agrees"})

        detail = await net.ann.datanets.show("kitchen")
        gone = next(one for one in detail.contributions if one.title.startswith("Story 0"))
        await net.ann.datanets.withdraw("kitchen", gone.id)
        refused = await net.refused("cook", "--anyway")
        assert f"({gone.id[:12]}), withdrawn; retrain without " in refused
        assert "lorikeet train new cook-2 --from cook" in refused

        status, compared = await net.verify("cook")
        assert (status, compared["text"][0]) == (5, "unknown")
        assert "1 contributions are gone from their datanet" in compared["text"][1]

        run = await net.train("cook-2", "--from", "cook")
        assert gone.id not in json.loads((run / "run.json").read_text())["contributions"]
        newer = await net.publish("cook-2", "--as", "cook", "--anyway")
        assert newer["version"] == "2"
        status, compared = await net.verify("cook")
        assert status == 0, compared

        await net.ann.datanets.appoint("kitchen", "Ben", "barred")
        assert "of somebody who was barred; retrain" in await net.refused("cook-2", "--anyway")


async def test_a_datanet_whose_newest_word_is_not_to_be_had_is_said_so(tmp_path: Path) -> None:
    async with serving(tmp_path / "net") as (daemon, _):
        net = Kitchen(tmp_path / "net", daemon, daemon)
        async with people.daemon(tmp_path / "ann", *daemon.host.addresses) as ann:
            made = await ann.datanets.create(charter("kitchen", languages=()))
            given = await ann.datanets.give(
                made.id, giving(write_story(tmp_path / "story.jsonl", 1)), hush
            )
            await ann.datanets.judge(made.id, given.contributions[0].id, "accept", ("", "", ""))
            await ann.datanets.make_version(made.id)
            token = await ann.datanets.invite("kitchen", uses=1, days=1)
            await daemon.datanets.join(token, "Ben")
            run = await net.train("cook", "--datanet", "kitchen")
        change(run / "evaluation.json", is_good=True)
        assert "the newest word of the datanet kitchen" in await net.refused("cook")
        assert (await net.publish("cook", "--anyway"))["version"] == "1"


@pytest.mark.slow
async def test_who_checks_an_adapter_finds_what_was_changed(tmp_path: Path) -> None:
    async with kitchen(tmp_path) as net:
        await net.train("cook", "--datanet", "kitchen")
        offer = Path((await net.publish("cook", "--anyway"))["folder"])
        status, compared = await net.verify("cook", "--train", "--threads", "1")
        assert (status, compared["weights"]) == (0, ("agrees", "bit for bit, by 1 threads here"))

        async def push(name: str, spoil: dict[str, tuple[bytes, bytes]]) -> None:
            """Publish the same with some bytes of some files replaced."""
            folder = tmp_path / name
            shutil.copytree(offer, folder)
            renamed = {"lorikeet.toml": (b'name = "cook"', f'name = "{name}"'.encode())}
            for file, (before, after) in [*renamed.items(), *spoil.items()]:
                data = (folder / file).read_bytes()
                assert before in data
                (folder / file).write_bytes(data.replace(before, after, 1))
            await net.daemon.push(folder)

        toml = tomllib.loads((offer / "lorikeet.toml").read_text())
        first = toml["contributors"][0]
        friend = (first["address"].encode(), b"0x" + b"7" * 40)
        await push("friend", {"lorikeet.toml": friend})
        status, compared = await net.verify("friend")
        assert (status, compared["contributors"][0]) == (4, "differs")
        assert f"pays 0x{'7' * 40}" in compared["contributors"][1]

        weights = (f"weight = {first['weight']}".encode(), b"weight = 1")
        await push("greedy", {"lorikeet.toml": weights})
        status, compared = await net.verify("greedy")
        assert (status, compared["weights of people"][0]) == (5, "unknown")

        await push("praised", {"evaluation.msgpack": (b"not 2 % less", b"a lot less  ")})
        status, compared = await net.verify("praised")
        assert (status, compared["evaluation"][0]) == (4, "differs")
        assert "not 2 % less" in compared["evaluation"][1]

        await push("reseeded", {"recipe.toml": (b"seed = 20260", b"seed = 20261")})
        status, compared = await net.verify("reseeded", "--train", "--threads", "1")
        assert status in (4, 5)
        assert "other bits: what was held out loses" in compared["weights"][1]

        tokens = read_tokens((offer / "attribution.tokens").read_bytes())
        given = []
        place = 0
        for who, count in tokens.contributions:
            texts = [tokens.document(place + number).tolist() for number in range(count)]
            place += count
            given.append(Contribution(who, texts))
        given[0].documents[0][0] += 1
        reworded = write_tokens(tokens.tokenizer_hash, 2, given)
        whole = (offer / "attribution.tokens").read_bytes()
        await push("reworded", {"attribution.tokens": (whole, reworded)})
        status, compared = await net.verify("reworded")
        assert (status, compared["text"][0]) == (4, "differs")

        await net.daemon.push(make_adapter(tmp_path / "bare", "bare", 3))
        status, compared = await net.verify("bare")
        assert (status, compared["recipe"]) == (5, ("unknown", "its manifest names none"))
