"""A daemon in memory that has something to show in every part of the page."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from node.api.adapters import AdapterInfo, HeldInfo, PullReport, VersionInfo
from node.api.datanets import (
    ContributionInfo,
    DatanetDetail,
    DatanetInfo,
    DatanetVersionInfo,
    DroppedInfo,
    DropSaid,
    FindingInfo,
    GivenInfo,
    GiveSaid,
    PersonInfo,
    Progress,
    Tell,
    TotalInfo,
)
from node.api.money import ChannelInfo, ReceiptInfo
from node.api.status import PeerInfo, StatusInfo
from node.api.training import (
    BesideInfo,
    BesideRunInfo,
    ChatBegun,
    ChatEnded,
    ChatSaid,
    ChatText,
    ChatWord,
    DifferingInfo,
    FigureInfo,
    InfluenceInfo,
    InfluenceSaid,
    MergedFrom,
    MergedInfo,
    MergePaid,
    MergeSaid,
    RunInfo,
    RunsBesideInfo,
    StepInfo,
    Watched,
    WeighedInfo,
)
from node.errors import UnknownModel
from tests.node.twin import LAW, PEER, RECEIPT, Twin

CREATOR = "16Uiu2HAmFaridaFaridaFaridaFaridaFaridaFaridaFarida"
NAMES = ("law", "verse", "recipes", "birds", "tides")
ADAPTERS = tuple(
    AdapterInfo(
        name,
        f"bafkrei{name}" * 3,
        CREATOR,
        state,  # type: ignore[arg-type]
        size_bytes=1_800_000 * (1 + place),
        licence="CC0-1.0",
        providers=place,
        version="1",
        description=f"What those who know say of {name}.",
        languages=("en",),
    )
    for place, (name, state) in enumerate(
        zip(NAMES, ("ready", "held", "known", "known", "known"), strict=True)
    )
)
PEERS = tuple(
    PeerInfo(
        f"16Uiu2HAm{place:040d}",
        f"/ip4/10.0.0.{place}/tcp/4001" + ("/ws" if place % 3 == 0 else ""),
        (("volunteer",), ("aggregator",), ("visitor",))[place % 3],
        1.0 if place != 4 else 0.4,
        received_bytes=9_000 * 8**place,
        sent_bytes=30_000 * place,
    )
    for place in range(1, 9)
)
RECEIPTS = (
    RECEIPT,
    dataclasses.replace(RECEIPT, digest="cd" * 32, state="final", role="node", amount=1_240),
    dataclasses.replace(RECEIPT, digest="ef" * 32, state="queued", role="node", epoch=None),
)
RUN = RunInfo(
    "kitchen",
    "working",
    "",
    "/somewhere/runs/kitchen",
    base="cd" * 32,
    kind="lora",
    rank=8,
    people=12,
    tokens=48_000,
    made_at=1_794_000_000,
    step=40,
    num_steps=120,
    loss=2.1,
    first=3.2,
    best=2.2,
    best_step=40,
    seconds_left=640.0,
    tokens_a_second=410.0,
)
DATANET = DatanetInfo(
    "c0" * 32,
    "kitchen",
    "What people cook, and why.",
    owner=CREATOR,
    sequencer=PEER,
    role="owner",
    is_open=False,
    quorum=1,
    languages=("en",),
    licences=("CC0-1.0",),
    consent="My words may be learnt from.",
    num_people=2,
    num_by_state={"accepted": 3, "waiting": 1},
    num_versions=1,
    seq=9,
    head="aa" * 32,
    at=1_794_000_000,
)
GIVEN = ContributionInfo(
    "5f" * 32,
    "contribution",
    "Notes on salt",
    "Farida",
    CREATOR,
    "0x" + "33" * 20,
    documents=4,
    words=1_900,
    size_bytes=11_000,
    state="waiting",
    place=3,
    given_at=1_794_000_000,
    licence="CC0-1.0",
    source="my own",
    is_here=True,
)
DETAIL = DatanetDetail(
    DATANET,
    people=(PersonInfo(CREATOR, "Farida", "owner", 3), PersonInfo(PEER, "Karim", "member", 0)),
    contributions=(GIVEN, dataclasses.replace(GIVEN, id="6f" * 32, state="accepted")),
    versions=(
        DatanetVersionInfo(
            1,
            "dd" * 32,
            1_794_000_000,
            contributions=3,
            left=0,
            totals=(
                TotalInfo(
                    CREATOR,
                    "Farida",
                    "0x" + "33" * 20,
                    contributions=3,
                    documents=12,
                    words=5_700,
                    size_bytes=33_000,
                    held_out=1,
                ),
            ),
        ),
    ),
)


MEASURED = InfluenceInfo(
    "kitchen",
    "paused",
    "",
    "",
    done=3,
    total=9,
    tokens=48_000,
    of_tokens=48_000,
    groups=3,
    people=(WeighedInfo("Farida", 0.61, 0.42, 0), WeighedInfo("Karim", 0.39, -0.05, 2)),
    lambda_eighths=3,
    r=FigureInfo(0.56, 0.46, 0.64),
    lds=None,
    answers=48,
    note="few answers: the intervals are wide",
)


@dataclass
class TrainingTwin:
    """`Training`, as far as the page looks."""

    run: RunInfo = RUN
    measured: InfluenceInfo = MEASURED
    asked: list[str] = field(default_factory=list)

    async def listing(self) -> list[RunInfo]:
        return [self.run, dataclasses.replace(RUN, name="larder", state="paused")]

    async def show(self, name: str) -> Watched:
        if name != self.run.name:
            raise UnknownModel(name)
        return Watched(self.run, tuple(self._steps(self.run.step)))

    async def ask(self, name: str, wanted: str) -> RunInfo:
        self.asked.append(wanted)
        self.run = dataclasses.replace(self.run, state="paused" if wanted == "pause" else "stopped")
        return self.run

    async def resume(self, name: str) -> RunInfo:
        self.asked.append("resume")
        self.run = dataclasses.replace(self.run, state="working")
        return self.run

    async def influence(self, name: str) -> InfluenceInfo:
        return self.measured

    async def measure(self, name: str, said: InfluenceSaid) -> InfluenceInfo:
        self.asked.append("measure")
        self.measured = dataclasses.replace(self.measured, state="working", says="without Karim")
        return self.measured

    async def stop_measuring(self, name: str) -> InfluenceInfo:
        self.asked.append("stop measuring")
        self.measured = dataclasses.replace(self.measured, state="stopped", says="")
        return self.measured

    @asynccontextmanager
    async def watch_influence(self, name: str) -> AsyncIterator[AsyncIterator[InfluenceInfo]]:
        async def words() -> AsyncIterator[InfluenceInfo]:
            yield self.measured
            await trio.sleep_forever()

        yield words()

    @asynccontextmanager
    async def chat(self, name: str, said: ChatSaid) -> AsyncIterator[AsyncIterator[ChatWord]]:
        async def words() -> AsyncIterator[ChatWord]:
            yield ChatBegun(40, 2.2, ())
            for by in ("base", "adapter"):
                yield ChatText(by, f"The {by} says that ")  # type: ignore[arg-type]
                yield ChatText(by, said.turns[0].content)  # type: ignore[arg-type]
                yield ChatEnded(by, 9, "stop")  # type: ignore[arg-type]

        yield words()

    async def compare(self, names: Sequence[str]) -> RunsBesideInfo:
        first, *rest = (dataclasses.replace(RUN, name=name) for name in names)
        held_out = BesideInfo("held out", 3.1, 2.2, 800)
        return RunsBesideInfo(
            (
                BesideRunInfo(first, 900.0, held_out, "better on what is held out", is_good=True),
                *(BesideRunInfo(one, 450.0, None, "", is_good=None) for one in rest),
            ),
            (DifferingInfo("adapter.rank", ("8", "16", "32")[: len(names)]),),
        )

    async def merge(self, said: MergeSaid, tell: Tell) -> MergedInfo:
        self.asked.append(f"merge {said.name}")
        tell(Progress("merge", 1, 2))
        parents = tuple(
            MergedFrom(one.model, f"bafkrei{one.model}" * 3, one.weight or 0.5)
            for one in said.parents
        )
        paid = MergePaid("creator", "0x" + "33" * 20, 0.14)
        folder = f"/srv/merged/{said.name}"
        return MergedInfo(said.name, folder, said.method, 16, "", parents=parents, paid=(paid,))

    @asynccontextmanager
    async def watch(self, name: str, after: int) -> AsyncIterator[AsyncIterator[Watched]]:
        async def words() -> AsyncIterator[Watched]:
            yield Watched(self.run, tuple(self._steps(self.run.step)))
            await trio.sleep_forever()

        yield words()

    @staticmethod
    def _steps(count: int) -> list[StepInfo]:
        return [
            StepInfo(
                step,
                2.0 + 1.4 / (1 + step / 8) + 0.05 * (step % 3),
                0.4,
                2.1 + 1.2 / (1 + step / 8) if step % 10 == 0 else None,
            )
            for step in range(1, count + 1)
        ]


@dataclass
class DatanetsTwin:
    """`Datanets`, as far as the page looks."""

    judged: list[str] = field(default_factory=list)
    dropped: dict[str, bytes] = field(default_factory=dict)
    given: list[GiveSaid] = field(default_factory=list)

    def listing(self) -> list[DatanetInfo]:
        return [DATANET]

    async def show(self, datanet: str) -> DatanetDetail:
        if datanet not in (DATANET.id, DATANET.name):
            raise UnknownModel(datanet)
        return DETAIL

    async def drop(self, said: DropSaid, data: bytes) -> DroppedInfo:
        self.dropped[said.name] = self.dropped.get(said.name, b"") + data
        return DroppedInfo(f"/srv/dropped/{said.drop}/{said.name}", len(self.dropped[said.name]))

    async def give(self, datanet: str, said: GiveSaid, tell: Tell) -> GivenInfo:
        self.given.append(said)
        finding = FindingInfo("short", 2, "Pepper", "4 words", mend="write more", outcome="refuse")
        return GivenInfo((GIVEN,), (finding,), num_kept=3, num_refused=1)

    async def invite(self, datanet: str, uses: int, days: float) -> str:
        return "datanet1-" + "ab" * 200

    async def text(self, datanet: str, contribution: str) -> bytes:
        return b"Salt keeps. <script>alert(1)</script>"

    async def judge(
        self, datanet: str, subject: str, decision: str, reason: tuple[str, str, str]
    ) -> ContributionInfo:
        self.judged.append(decision)
        return GIVEN


@dataclass
class PageTwin(Twin):
    """A volunteer that serves, earns and trains. `pull_s` is how long a pull takes."""

    pull_s: float = 0.0
    pulled: list[str] = field(default_factory=list)
    pulls_cancelled: int = 0
    withdrawn: list[str | None] = field(default_factory=list)
    training: TrainingTwin = field(default_factory=TrainingTwin)
    datanets: DatanetsTwin = field(default_factory=DatanetsTwin)
    began: float = field(default_factory=time.monotonic)

    async def status(self) -> StatusInfo:
        uptime_s = 4_000 + time.monotonic() - self.began
        engine: dict[str, Any] = {
            "up": True,
            "restarts": 0,
            "dtype": "bfloat16",
            "threads": 2,
            "max_context_tokens": 8192,
            "running": 2,
            "waiting": 1,
            "kv_pages": 512,
            "kv_pages_free": 300,
            "adapters_held": ["aa" * 32, "bb" * 32],
            "adapters_ready": ["aa" * 32],
            "tokens_generated": int(57 * uptime_s),
            "max_adapters_in_one_step": 4,
            "memory": {
                "place": "processor",
                "base_bytes": 271_000_000,
                "adapter_bytes": 36_400_000,
                "kv_bytes": 94_000_000,
                "work_bytes": 41_000_000,
                "process_bytes": 158_000_000,
                "total_bytes": 600_400_000,
            },
            "steps": [
                {
                    "step": step,
                    "adapters": ["base", "aa" * 32],
                    "prefill_tokens": 7 if step % 5 == 0 else 0,
                    "decode_tokens": 2,
                    "step_ms": 11.0 + step % 3,
                }
                for step in range(40)
            ],
        }
        return dataclasses.replace(
            await super().status(),
            role="volunteer",
            base="SmolLM2-135M-Instruct " + "b179c952" * 8,
            uptime_s=uptime_s,
            num_peers=len(PEERS),
            engine=engine,
            settlement={"paid": True, "troubles": {}, "rejections": []},
            reach={"state": "behind", "relays": ["r"], "mapped_port": None, "circuits": None},
            rejections=(("answer", PEERS[3].peer_id, "the receipt does not follow the words"),),
            page_at="https://node.example.org",
            counters={"requests_served": 12, "tokens_served": 900, "receipts_accepted": 12},
        )

    async def adapters(self) -> list[AdapterInfo]:
        return list(ADAPTERS)

    def held(self) -> list[HeldInfo]:
        return [
            HeldInfo(one.name, one.cid, "1", one.size_bytes, why="pulled", used_at=1_794_000_000.0)
            for one in ADAPTERS[:2]
        ]

    def peers(self) -> list[PeerInfo]:
        now = time.time()  # however long the tests before this one took
        return [
            dataclasses.replace(one, heard_at=now - 3 * place * place)
            for place, one in enumerate(PEERS, start=1)
        ]

    async def receipts(self) -> list[ReceiptInfo]:
        return list(RECEIPTS)

    async def pull(self, model: str) -> PullReport:
        self.pulled.append(model)
        try:
            await trio.sleep(self.pull_s)
        except trio.Cancelled:
            self.pulls_cancelled += 1
            raise
        return await super().pull("law")

    async def versions(self, name: str) -> list[VersionInfo]:
        return await super().versions(name.rpartition("/")[2])

    async def withdraw(self, channel: str | None) -> list[ChannelInfo]:
        self.withdrawn.append(channel)
        return await super().withdraw(channel)

    def _known(self, model: str) -> None:
        if model not in ("base", "auto", *NAMES):
            raise UnknownModel(model, [LAW.name])
