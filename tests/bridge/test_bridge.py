"""The bridge, from the daemon's socket to a stand-in for vLLM and back."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import trio
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from bridge.__main__ import make_parser, serve
from bridge.border import Border, DaemonGone
from bridge.errors import ServerLost, Unfit
from bridge.meeting import meet
from bridge.mixing import mix
from bridge.vllm import Vllm
from engine import messages as m
from engine.framing import MessageDecoder, encode_frames
from tests.bridge.daemon import Daemon
from tests.bridge.stand_in import StandIn
from tests.node.networks import until
from tests.node.tiny import make_adapter, make_base

DIGEST = bytes([9]) * 32
SAMPLING = m.Sampling(bytes(range(32)))
LAW, VERSE = bytes([1]) * 32, bytes([2]) * 32


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_base(folder / "base")
    make_adapter(folder / "law", "law", 1)
    make_adapter(folder / "verse", "verse", 2)
    return folder


@pytest.fixture
def server(world: Path) -> Iterator[StandIn]:
    with StandIn(str(world / "base")) as server:
        yield server


class Client:
    """The daemon's end of the socket, in this process."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._frames = MessageDecoder[m.FromEngine](m.FromEngine)

    async def send(self, *messages: m.ToEngine) -> None:
        await self._stream.send_all(encode_frames(messages))

    async def receive(self) -> m.FromEngine:
        with trio.fail_after(60):
            while (message := self._frames.next_message()) is None:
                data = await self._stream.receive_some(65536)
                assert data, "the bridge closed its end"
                self._frames.feed(bytes(data))
        return message

    async def answer(self, request_id: int = 1) -> tuple[list[int], m.Finished | m.Failed]:
        """A request's tokens, and its last word; what is said of others is left out."""
        tokens: list[int] = []
        while True:
            match await self.receive():
                case m.Tokens() as some if some.request_id == request_id:
                    tokens += some.token_ids
                case m.Finished() | m.Failed() as last if last.request_id == request_id:
                    return tokens, last


@asynccontextmanager
async def bridge(server: StandIn, world: Path, *options: str) -> AsyncIterator[Client]:
    ours, theirs = trio.socket.socketpair()
    arguments = ["vllm", "--fd=0", f"--url={server.url}", f"--base={world / 'base'}"]
    arguments += [f"--digest={DIGEST.hex()}", f"--here={world}"]
    chosen = make_parser().parse_args([*arguments, *options])
    near, far = trio.SocketStream(ours), trio.SocketStream(theirs)
    try:
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(serve, chosen, Border(far))
            client = Client(near)
            ready = await client.receive()
            assert isinstance(ready, m.Ready)
            yield client
            await near.aclose()
    except* DaemonGone:
        pass


def hold(adapter: bytes, folder: Path) -> m.HoldAdapter:
    files = ("adapter_config.json", "adapter_model.safetensors")
    return m.HoldAdapter(adapter, *(str(folder / name) for name in files))


def submit(
    request_id: int = 1,
    prompt: tuple[int, ...] = (5, 6),
    adapter: bytes | None = None,
    sampling: m.Sampling = SAMPLING,
    *,
    max_tokens: int = 5,
    credit: int = 100,
    stop_ids: tuple[int, ...] = (),
    **more: int,
) -> m.Submit:
    return m.Submit(
        request_id,
        list(prompt),
        adapter,
        sampling,
        max_tokens=max_tokens,
        credit=credit,
        stop_ids=list(stop_ids),
        **more,
    )


def follow(token: int, place: int = 0, count: int = 5) -> list[int]:
    """What the stand-in answers after a token."""
    tokens = [token]
    for _ in range(count):
        tokens.append((tokens[-1] * 7 + 3 + 11 * place) % 259)
    return tokens[1:]


async def test_the_server_is_described(server: StandIn, world: Path) -> None:
    met = await meet(Vllm(server.url, ""), world / "base", 5)
    assert met.number_format == "vllm/float32"
    assert (met.vocab_size, met.max_context_tokens) == (259, 64)
    assert (met.figures.pages, met.figures.page_tokens, met.figures.pages_free) == (100, 16, 75)
    assert met.is_compared


async def test_base_and_adapters_answer_side_by_side(server: StandIn, world: Path) -> None:
    async with bridge(server, world) as client:
        await client.send(hold(LAW, world / "law"), hold(VERSE, world / "verse"))
        held = [await client.receive(), await client.receive()]
        assert [(one.adapter, one.rank) for one in held if isinstance(one, m.AdapterHeld)] == [
            (LAW, 4),
            (VERSE, 4),
        ]
        assert server.adapters == {LAW.hex(): str(world / "law"), VERSE.hex(): str(world / "verse")}
        server.token_s = 0.01
        adapters = [None, LAW, VERSE]
        await client.send(*(submit(at, adapter=one) for at, one in enumerate(adapters)))
        tokens: dict[int, list[int]] = {0: [], 1: [], 2: []}
        ends: list[m.Finished] = []
        while len(ends) < 3:
            said = await client.receive()
            if isinstance(said, m.Tokens):
                tokens[said.request_id] += said.token_ids
            else:
                assert isinstance(said, m.Finished)
                ends.append(said)
        assert tokens == {place: follow(6, place) for place in range(3)}
        assert {end.reason for end in ends} == {"length"}
        assert max(end.neighbours for end in ends) == 3


async def test_an_answer_ends_after_a_stop_id(server: StandIn, world: Path) -> None:
    stop = follow(6)[2]
    async with bridge(server, world) as client:
        await client.send(submit(stop_ids=(stop,)))
        tokens, last = await client.answer()
        assert tokens == follow(6)[:3]
        assert isinstance(last, m.Finished)
        assert (last.reason, last.completion_tokens, last.prompt_tokens) == ("stop", 3, 2)


async def test_no_token_is_asked_for_that_is_not_paid(server: StandIn, world: Path) -> None:
    async with bridge(server, world) as client:
        await client.send(submit(max_tokens=8, credit=2, num_answered=1))
        assert [(await client.receive()).token_ids for _ in range(2)] == [  # type: ignore[union-attr]
            [token] for token in follow(6, count=2)
        ]
        await client.send(m.Grant(1, 1), m.GetStats())  # less than before changes nothing
        assert isinstance(await client.receive(), m.Stats)
        assert len(server.asked) == 1
        await client.send(m.Grant(1, 5), m.Grant(1, 100))
        tokens, last = await client.answer()
        assert tokens == follow(6, count=8)[2:]
        assert isinstance(last, m.Finished)
        assert last.completion_tokens == 8
    sizes = [body["sampling_params"]["max_tokens"] for body in server.asked]
    assert sizes == [2, 6]
    again = server.asked[1]
    assert again["token_ids"] == [5, 6, *follow(6, count=2)]
    assert again["sampling_params"]["extra_args"]["lorikeet"]["answered"] == 3


async def test_the_context_ends_an_answer(server: StandIn, world: Path) -> None:
    async with bridge(server, world) as client:
        await client.send(submit(prompt=(6,) * 60, max_tokens=50))
        tokens, last = await client.answer()
        assert len(tokens) == 4
        assert isinstance(last, m.Finished)
        assert last.reason == "length"


async def test_all_terms_reach_the_plug_in(server: StandIn, world: Path) -> None:
    terms = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "logit_bias": [(3, -1.5)]}
    async with bridge(server, world) as client:
        await client.send(submit(sampling=m.Sampling(bytes(range(32)), m.choosing_from(terms))))
        await client.answer()
    asked = server.asked[0]["sampling_params"]
    assert asked["temperature"] == 0.0
    assert asked["ignore_eos"]
    assert asked["extra_args"]["lorikeet"] == {
        "seed": bytes(range(32)).hex(),
        "answered": 0,
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logit_bias": [[3, -1.5]],
    }


async def test_the_likeliest_ids_are_told_without_the_drawn_one_among_them(
    server: StandIn, world: Path
) -> None:
    async with bridge(server, world) as client:
        await client.send(submit(max_tokens=1, logprobs=3), submit(2, max_tokens=1, logprobs=0))
        said = [await client.receive() for _ in range(4)]
    reports = {one.request_id: one.logprobs for one in said if isinstance(one, m.Tokens)}
    assert reports == {
        1: [m.TokenLogprobs(-2.5, [(0, -1.0), (1, -1.1), (2, -1.2)])],
        2: [m.TokenLogprobs(-2.5, [])],
    }


async def test_a_cancelled_answer_ends_at_the_server_too(server: StandIn, world: Path) -> None:
    async with bridge(server, world) as client:
        server.token_s = 0.02
        await client.send(submit(max_tokens=40))
        await client.receive()
        await client.send(m.Cancel(1))
        _, last = await client.answer()
        assert isinstance(last, m.Finished)
        assert last.reason == "cancelled"
        assert 0 < last.completion_tokens < 40
        assert await trio.to_thread.run_sync(server.hung_up.wait, 10)
        await client.send(m.Cancel(1))  # late, and for nobody


async def test_a_request_that_waits_for_credit_can_be_cancelled(
    server: StandIn, world: Path
) -> None:
    async with bridge(server, world) as client:
        await client.send(submit(credit=1))
        await client.receive()
        await client.send(m.Cancel(1))
        _, last = await client.answer()
        assert isinstance(last, m.Finished)
        assert (last.reason, last.completion_tokens) == ("cancelled", 1)


async def test_more_requests_than_there_are_places_are_refused_for_now(
    server: StandIn, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.desk.MAX_RUNNING", 1)
    async with bridge(server, world) as client:
        await client.send(submit(1, credit=1), submit(2))
        _, last = await client.answer(2)
        assert isinstance(last, m.Failed)
        assert last.code == "busy"
        await client.send(m.Cancel(1))
        await client.answer(1)
        await client.send(submit(3))
        assert (await client.answer(3))[0] == follow(6)


async def test_a_request_without_credit_is_ended_after_a_time(
    server: StandIn, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.desk.DEADLINE_S", 0.05)
    async with bridge(server, world) as client:
        await client.send(submit(credit=0))
        tokens, last = await client.answer()
        assert isinstance(last, m.Finished)
        assert (tokens, last.reason) == ([], "cancelled")


async def test_a_deadline_ends_a_slow_answer(server: StandIn, world: Path) -> None:
    async with bridge(server, world) as client:
        server.token_s = 0.5
        await client.send(submit(deadline_ms=50))
        _, last = await client.answer()
        assert isinstance(last, m.Failed)
        assert last.code == "deadline"


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("cut", "internal", "broke off"),
        ("error", "internal", "the engine core died"),
        ("too many", "internal", "more tokens than it was asked for"),
        ("wrong id", "internal", "an id that the base|id that the base does not have"),
        ("no reason", "internal", "ended an answer with None"),
        ("early", "internal", "after 2 of 5 tokens"),
        ("abort", "internal", "'abort'"),
        ("no json", "internal", "no piece of an answer"),
        ("long line", "internal", "a line of more than"),
        ("400", "bad_request", "as it was told to"),
        ("404", "unknown_adapter", "as it was told to"),
        ("500", "internal", "500"),
        ("503", "busy", "as it was told to"),
    ],
)
async def test_a_fault_of_the_server_costs_one_request(
    server: StandIn, world: Path, fault: str, code: str, words: str
) -> None:
    async with bridge(server, world) as client:
        server.fault = fault
        await client.send(submit())
        tokens, last = await client.answer()
        assert isinstance(last, m.Failed)
        assert last.code == code
        assert any(part in last.message for part in words.split("|"))
        assert tokens == follow(6)[: len(tokens)]
        server.fault = ""
        await client.send(submit(2))
        assert (await client.answer(2))[0] == follow(6)


async def test_what_vllm_cannot_be_asked_is_refused_by_name(server: StandIn, world: Path) -> None:
    grammar = m.choosing_from({"grammar": m.Grammar("regex", "a+")})
    refused = [
        (submit(1, sampling=m.Sampling(bytes(32), grammar)), "internal", "grammar"),
        (submit(2, priority=1), "internal", "priority"),
        (submit(3, prompt=()), "bad_request", "prompt_ids"),
        (submit(4, prompt=(259,)), "bad_request", "token id"),
        (submit(5, prompt=(1,) * 64), "bad_request", "64 tokens do not fit"),
        (submit(6, adapter=LAW), "unknown_adapter", "not held"),
        (m.Replay(7, [1], [2], None, SAMPLING), "internal", "replays no answer"),
        (m.Embed(8, [1], None), "internal", "no embeddings"),
    ]
    async with bridge(server, world) as client:
        for message, code, words in refused:
            await client.send(message)
            said = await client.receive()
            assert isinstance(said, m.Failed)
            assert said.code == code
            assert words in said.message
    assert server.asked == []


def spoil(folder: Path, **fields: object) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("target_parameters", ["experts.down_proj"]),
        ("trainable_token_indices", [3]),
    ],
)
async def test_an_adapter_that_vllm_would_not_serve_whole_is_refused(
    server: StandIn, world: Path, tmp_path: Path, field: str, value: object
) -> None:
    folder = spoil(make_adapter(tmp_path / "odd", "odd", 3), **{field: value})
    async with bridge(server, world) as client:
        await client.send(hold(LAW, folder))
        said = await client.receive()
        assert isinstance(said, m.AdapterRefused)
        assert field in said.message
    assert server.adapters == {}


async def test_an_adapter_with_a_tensor_that_vllm_skips_is_refused(
    server: StandIn, world: Path, tmp_path: Path
) -> None:
    name = "base_model.model.model.embed_tokens.weight"
    folder = make_adapter(tmp_path / "odd", "odd", 3, extra=name)
    async with bridge(server, world) as client:
        await client.send(hold(LAW, folder), hold(VERSE, tmp_path / "nowhere"))
        said = [await client.receive(), await client.receive()]
    assert [isinstance(one, m.AdapterRefused) for one in said] == [True, True]
    assert name in said[0].message  # type: ignore[union-attr]
    assert "cannot be read" in said[1].message  # type: ignore[union-attr]


async def test_vllms_own_refusal_of_an_adapter_is_passed_on(server: StandIn, world: Path) -> None:
    async with bridge(server, world) as client:
        server.fault = "no load"
        await client.send(hold(LAW, world / "law"))
        said = await client.receive()
        assert isinstance(said, m.AdapterRefused)
        assert "max_lora_rank" in said.message


async def test_an_adapter_is_unloaded_after_its_last_request(server: StandIn, world: Path) -> None:
    async with bridge(server, world) as client:
        server.token_s = 0.01
        await client.send(hold(LAW, world / "law"))
        await client.receive()
        await client.send(submit(1, adapter=LAW, max_tokens=20), m.Locate(LAW))
        assert m.Located(LAW, "slot") in [await client.receive() for _ in range(2)]
        await client.send(m.ReleaseAdapter(LAW), submit(2, adapter=LAW))
        tokens, _ = await client.answer(1)
        assert len(tokens) >= 18  # the others came beside what was said of other things
        await client.send(m.Locate(LAW))
        assert await client.receive() == m.Located(LAW, "absent")
        await client.send(hold(LAW, world / "law"))  # after the unloading, which is in order
        assert isinstance(await client.receive(), m.AdapterHeld)
    assert server.unloaded == [LAW.hex()]
    assert list(server.adapters) == [LAW.hex()]


async def test_an_adapter_that_the_server_has_already_is_not_loaded_again(
    server: StandIn, world: Path
) -> None:
    server.adapters[LAW.hex()] = "from before"
    async with bridge(server, world) as client:
        await client.send(hold(LAW, world / "law"))
        assert isinstance(await client.receive(), m.AdapterHeld)
    assert server.adapters == {LAW.hex(): "from before"}


async def test_the_server_may_see_the_folder_elsewhere_or_fetch_by_itself(
    server: StandIn, world: Path
) -> None:
    async with bridge(server, world, f"--here={world}", "--there=/seen/world") as client:
        await client.send(hold(LAW, world / "law"))
        await client.receive()
        assert server.adapters == {LAW.hex(): "/seen/world/law"}
    async with bridge(server, world, f"--here={world / 'verse'}", "--there=/mnt") as client:
        await client.send(hold(VERSE, world / "law"))
        said = await client.receive()
        assert isinstance(said, m.AdapterRefused)
        assert "lies outside" in said.message
    cid = "bafkreiabaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibae"
    server.resolves = {cid}
    async with bridge(server, world, "--there=hub") as client:
        await client.send(hold(LAW, world / "law"))
        assert isinstance(await client.receive(), m.AdapterHeld)
        assert server.adapters[cid] == "fetched"


async def test_a_cocktail_is_written_where_the_server_sees_it(
    server: StandIn, world: Path, tmp_path: Path
) -> None:
    parents = [parent(world / "law", 0.5), parent(world / "verse", -2.0)]
    async with bridge(server, world, f"--here={tmp_path}") as client:
        await client.send(m.HoldCocktail(LAW, parents))
        held = await client.receive()
        assert isinstance(held, m.AdapterHeld)
        assert held.rank == 8
        folder = tmp_path / "mixed" / LAW.hex()
        assert server.adapters == {LAW.hex(): str(folder)}
        mixed = load_file(folder / "adapter_model.safetensors")
        name = "base_model.model.model.layers.1.self_attn.v_proj"
        delta = mixed[f"{name}.lora_B.weight"] @ mixed[f"{name}.lora_A.weight"]
        expected = 8.0 * (0.5 * product(world / "law", name) - 2.0 * product(world / "verse", name))
        np.testing.assert_allclose(delta, expected, rtol=1e-4, atol=1e-5)
        config = json.loads((folder / "adapter_config.json").read_bytes())
        assert config["r"] == config["lora_alpha"] == 8
        await client.send(m.ReleaseAdapter(LAW), m.GetStats())
        await client.receive()
        await until(lambda: not folder.exists())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parents_in_half_precision_are_read_to_the_bit(
    world: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = make_adapter(tmp_path / "half", "half", 5)
    path = folder / "adapter_model.safetensors"
    halves = {name: value.to(dtype) for name, value in load_torch(path).items()}
    save_torch(halves, path)
    mix([parent(folder, 1.0)], tmp_path / "mixed")
    mixed = load_torch(tmp_path / "mixed" / "adapter_model.safetensors")
    assert mixed.keys() == halves.keys()
    for name, value in halves.items():
        factor = 8.0 if "lora_B" in name else 1.0
        assert torch.equal(mixed[name], factor * value.float())


def parent(folder: Path, weight: float) -> m.ParentFiles:
    held = hold(LAW, folder)
    return m.ParentFiles(held.config_path, held.weights_path, weight, folder.name)


def product(folder: Path, name: str) -> np.ndarray:
    tensors = load_file(folder / "adapter_model.safetensors")
    return tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]


async def test_a_parent_that_cannot_be_mixed_is_named(
    server: StandIn, world: Path, tmp_path: Path
) -> None:
    odd = spoil(make_adapter(tmp_path / "odd", "odd", 3), use_dora=True)
    async with bridge(server, world, f"--here={tmp_path}") as client:
        await client.send(m.HoldCocktail(LAW, [parent(world / "law", 1.0), parent(odd, 1.0)]))
        said = await client.receive()
        assert isinstance(said, m.AdapterRefused)
        assert "odd: use_dora" in said.message
    async with bridge(server, world, "--there=hub") as client:
        await client.send(m.HoldCocktail(LAW, [parent(world / "law", 1.0)]))
        said = await client.receive()
        assert isinstance(said, m.AdapterRefused)
        assert "engine_adapters" in said.message


async def test_figures_are_the_servers_and_our_own(server: StandIn, world: Path) -> None:
    async with bridge(server, world) as client:
        await client.send(hold(LAW, world / "law"))
        await client.receive()
        await client.send(submit())
        await client.answer()
        await client.send(m.GetStats())
        stats = await client.receive()
        assert isinstance(stats, m.Stats)
        assert (stats.running, stats.waiting, stats.tokens_generated) == (0, 0, 5)
        assert (stats.kv_pages, stats.kv_pages_free) == (100, 75)
        assert stats.adapters_held == [LAW]


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        ("has_generate", False, "--enable-scale-out"),
        ("has_updates", False, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=true"),
        ("has_plugin", False, "pip install plugins/vllm"),
        ("checks_names", False, "VLLM_SKIP_MODEL_NAME_VALIDATION"),
        ("max_logprobs", 20, "--max-logprobs 21"),
        ("key", "secret", "401"),
    ],
)
async def test_a_server_that_was_started_otherwise_is_refused_with_the_mend(
    server: StandIn, world: Path, name: str, value: object, mend: str
) -> None:
    setattr(server, name, value)
    with pytest.raises(Unfit, match=mend):
        await meet(Vllm(server.url, ""), world / "base", 5)


async def test_another_base_on_this_disk_is_refused(
    server: StandIn, world: Path, tmp_path: Path
) -> None:
    other = make_base(tmp_path / "other")
    vllm = Vllm(server.url, "")
    with pytest.raises(Unfit, match="name the same folder"):
        await meet(vllm, other, 5)
    with pytest.raises(Unfit, match="no Hugging Face folder"):
        await meet(vllm, tmp_path, 5)
    server.model = "org/base"
    assert not (await meet(vllm, world / "base", 5)).is_compared


async def test_nobody_at_the_address_is_named(world: Path) -> None:
    with pytest.raises(ServerLost, match=r"127\.0\.0\.1:9"):
        await meet(Vllm("http://127.0.0.1:9", ""), world / "base", 0.1)


async def test_a_server_that_forgot_its_adapters_is_another_one(
    server: StandIn, world: Path
) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with bridge(server, world) as client:
            await client.send(hold(LAW, world / "law"))
            await client.receive()
            server.adapters.clear()
            await client.receive()
    assert caught.group_contains(ServerLost, match="forgot 1 adapters")


def test_the_process_ends_when_the_server_does(world: Path) -> None:
    with StandIn(str(world / "base")) as server:
        server.key = "secret"
        server.token_s = 0.01
        with Daemon(server.url, world / "base", key="secret") as daemon:
            assert isinstance(daemon.receive(), m.Ready)
            daemon.send(submit(max_tokens=50))
            assert isinstance(daemon.receive(), m.Tokens)
            daemon.process.send_signal(signal.SIGINT)  # Ctrl-C is not for it
            server.fault = "cut"
            server.is_healthy = False
            daemon.send(submit(2))
            assert daemon.process.wait(60) == 5
            assert "the engine core died" in daemon.end()[1]


def test_the_process_says_why_it_refuses_and_ends(world: Path) -> None:
    with StandIn(str(world / "base")) as server:
        server.has_plugin = False
        with Daemon(server.url, world / "base") as daemon:
            refused = daemon.receive()
            assert isinstance(refused, m.BaseRefused)
            assert "plug-in" in refused.reason
            assert daemon.process.wait(60) == 1
