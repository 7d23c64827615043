"""What a node measures of itself, written as Prometheus reads it. Pure.

Names end with their unit. Answers are told in the terms of OpenTelemetry's conventions for
generative AI; its label for the model is left out, since anybody can make up a name: no label here
has more values than this file or a closed type lists. Amounts are in the fee token's smallest unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from engine.messages import Stats

from .distributions import Spread

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
SPREADS = {
    "gen_ai_server_time_to_first_token_seconds": "From a request to its first token.",
    "gen_ai_server_time_per_output_token_seconds": "Between tokens after the first.",
    "gen_ai_server_request_duration_seconds": "From a request to the end of its answer.",
    "gen_ai_client_token_usage": "Tokens of a prompt (input), of an answer (output).",
}
COUNTERS = {
    "adapters_fetched_ahead": "Adapters fetched before anybody asked for them here.",
    "adapters_pulled": "Adapters that came here.",
    "aggregators_convicted": "Aggregators that this node convicted.",
    "announcements_heard": "Announcements of adapters.",
    "announcements_rejected": "Announcements that were false.",
    "answers_differing": "Replayed answers that their adapter did not make.",
    "answers_not_replayed": "Answers that could not be replayed.",
    "answers_rejected": "Answers of nodes that cheated.",
    "answers_replayed": "Bought answers that were replayed.",
    "attestations_heard": "Verdicts of others on answers.",
    "attestations_not_told": "Verdicts that nobody could be told.",
    "attestations_rejected": "Verdicts of others that are false.",
    "attestations_told": "Verdicts of this node that others were told.",
    "batches_missed": "Batches of epochs that nobody gave.",
    "blocks_fetched": "Blocks that came here, of all peers.",
    "blocks_rejected": "Blocks that were not what their hash says.",
    "clients_vanished": "Clients that went away in mid-answer.",
    "datanet_entries": "Entries that were added to datanets.",
    "demands_answered": "Demands of others that were answered on the chain.",
    "demands_made": "Demands that this node made on the chain.",
    "epochs_adopted": "Epochs of the chain that an aggregator took over.",
    "epochs_contradicted": "Epochs that lie.",
    "epochs_mirrored": "Epochs that were recomputed.",
    "epochs_sealed": "Epochs that this aggregator sealed.",
    "epochs_taken_back": "Epochs that the chain took back.",
    "epochs_unsealed": "Epochs that this aggregator opened again.",
    "datanets_rejected": "Datanets whose log is false.",
    "equivocations": "Places for which somebody signed two receipts.",
    "exits_begun": "Channels that began to settle by themselves.",
    "exits_cancelled": "Ways out that were objected to.",
    "exits_paid": "Channels that settled by themselves.",
    "headers_attested": "Headers that this node signed as a witness.",
    "headers_posted": "Headers that this aggregator posted.",
    "headers_rejected": "Headers of epochs that this witness did not sign.",
    "holds_released": "Holds that were released on the chain.",
    "indexes_failed": "Indexes of texts that could not be made.",
    "indexes_opened": "Indexes of texts that were opened.",
    "invariants_broken": "Invariants of ours that were found broken.",
    "log_lines_lost": "Lines that the disk did not take.",
    "messages_rejected": "Messages of peers that cannot be read.",
    "names_heard": "Names of adapters that were heard.",
    "names_rejected": "Names whose record is false.",
    "offences_shown": "Offences that this node showed to the stake contract.",
    "payouts_claimed": "Payouts that were claimed.",
    "promises_demanded": "Promises that were demanded of an aggregator.",
    "receipts_accepted": "Receipts that this aggregator accepted.",
    "receipts_duplicate": "Receipts that this aggregator had.",
    "receipts_earned": "Receipts that pay this node, signed by both sides.",
    "receipts_in_grace": "Receipts that wait for a client's signature.",
    "receipts_out_of_order": "Receipts whose predecessor was missing.",
    "receipts_paid": "Receipts by which this node pays.",
    "receipts_promised": "Receipts that an aggregator promised to include.",
    "receipts_recalled": "Receipts that this aggregator took in again.",
    "receipts_rejected": "Receipts that are false.",
    "receipts_unilateral": "Receipts that pay this node, without the client's signature.",
    "receipts_verified": "Receipts of others that were verified.",
    "requests_answered": "Requests of this daemon's own API that were answered.",
    "requests_failed": "Requests of this daemon's own API that got no answer, or half of one.",
    "requests_refused": "Requests of other nodes that were refused.",
    "requests_served": "Requests of other nodes that were answered.",
    "tokens_served": "Tokens that other nodes got.",
    "vouchers_claimed": "Vouchers that were claimed on the chain.",
    "withdrawals_begun": "Channels whose rest is on its way back.",
    "withdrawals_finished": "Channels whose rest came back.",
}
"""What is counted, each as lorikeet_<name>_total; of peers and reasons only the sums."""
MAX_OTHER_COUNTERS = 64


@dataclass(frozen=True)
class ChannelSums:
    """All channels in which this node has one part, added up."""

    channels: int = 0
    spent: int = 0
    vouched: int = 0
    locked: int = 0


@dataclass(frozen=True)
class Figures:
    """What a node knows of itself now. `engine` None: it has none, or that is not up.

    `peers` counts by role, `receipts` by this node's part and their state, `channels` holds sums by
    its part; `epoch` is None where there is no chain.
    """

    role: str
    uptime_s: float
    engine: Stats | None
    engine_restarts: int
    adapters: int
    reach: str
    relays: int
    peers: Mapping[str, int]
    counters: Mapping[str, int]
    spreads: Sequence[Spread]
    troubles: int
    home_free_bytes: int
    receipts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    channels: Mapping[str, ChannelSums] = field(default_factory=dict)
    chain_nodes: Mapping[str, int] = field(default_factory=dict)
    credited: int = 0
    epoch: int | None = None


def render(figures: Figures) -> bytes:
    """Write them in Prometheus' text format, with this process's memory, time and files."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(figures))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Collected:
    """The figures as a registry asks for them."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        yield from families(self._figures)


def families(figures: Figures) -> Iterator[Metric]:
    """Yield every metric; one that has nothing to say has no samples."""
    yield from _node(figures)
    yield from _engine(figures)
    yield from _money(figures)
    yield from _spreads(figures.spreads)
    for name, told in {**_others(figures.counters), **COUNTERS}.items():
        yield CounterMetricFamily(f"lorikeet_{name}", told, total(figures.counters, name))


def _others(counters: Mapping[str, int]) -> dict[str, str]:
    """Name what is counted and not listed above: a few of our own words, never a peer's."""
    names = sorted({name.partition(":")[0] for name in counters} - set(COUNTERS))
    ours = [name for name in names if re.fullmatch("[a-z]+(_[a-z]+){1,4}", name)]
    return dict.fromkeys(ours[:MAX_OTHER_COUNTERS], "Counted under this name by the daemon.")


def total(counters: Mapping[str, int], name: str) -> int:
    """A counter; the sum of its parts (`name:part`) where only those are counted."""
    if name in counters:
        return counters[name]
    return sum(count for part, count in counters.items() if part.startswith(f"{name}:"))


def _node(figures: Figures) -> Iterator[Metric]:
    info = GaugeMetricFamily("lorikeet_node_info", "What this node is.", labels=("role",))
    info.add_metric((figures.role,), 1)
    yield info
    yield _gauge("uptime_seconds", "Since the daemon started.", figures.uptime_s)
    yield _by("peers", "Connected peers.", "role", figures.peers)
    reached = {state: float(state == figures.reach) for state in ("unknown", "reachable", "behind")}
    yield _by("reach", "1 for how strangers reach this node now.", "state", reached)
    yield _gauge("relays", "Relays that carry for this node.", figures.relays)
    yield _gauge("adapters_held", "Adapters whose files are here.", figures.adapters)
    yield _gauge("troubles", "Parts that do not work now.", figures.troubles)
    yield _gauge("home_free_bytes", "What the disk of the home has left.", figures.home_free_bytes)


def _engine(figures: Figures) -> Iterator[Metric]:
    stats = figures.engine
    yield _gauge("engine_up", "1 where the engine takes requests.", float(stats is not None))
    restarts = figures.engine_restarts
    yield CounterMetricFamily("lorikeet_engine_restarts", "Engines that ended.", restarts)
    requests = {} if stats is None else {"running": stats.running, "waiting": stats.waiting}
    yield _by("engine_requests", "In the batch, and in the queue.", "state", requests)
    pages: Mapping[str, float] = {}
    adapters: Mapping[str, float] = {}
    if stats is not None:
        pages = {"free": stats.kv_pages_free, "used": stats.kv_pages - stats.kv_pages_free}
        ready = len(stats.adapters_ready)
        adapters = {"slot": ready, "host": len(stats.adapters_held) - ready}
    yield _by("engine_kv_pages", "Pages of the key-value cache.", "state", pages)
    yield _by("engine_adapters", "Adapters in slots, and in host memory alone.", "place", adapters)
    yield from _memory(stats)
    yield from _last_step(stats)
    counted = {
        "engine_tokens_generated": ("Tokens that the engine made.", "tokens_generated"),
        "engine_tokens_drafted": ("Tokens guessed ahead.", "tokens_drafted"),
        "engine_tokens_accepted": ("Of those, right ones.", "tokens_accepted"),
        "engine_adapter_loads": ("Adapters that came into a slot.", "adapters_loaded"),
        "engine_adapter_evictions": ("Adapters that left a slot.", "adapters_evicted"),
    }
    for name, (told, attribute) in counted.items():
        value = None if stats is None else getattr(stats, attribute)
        yield CounterMetricFamily(f"lorikeet_{name}", told, value)


def _memory(stats: Stats | None) -> Iterator[Metric]:
    """Tell what the engine's memory is used for; the parts add up to its total."""
    use = None if stats is None else stats.memory
    parts = ("base", "adapter", "kv", "work", "process")
    values = {} if use is None else {part: getattr(use, f"{part}_bytes") for part in parts}
    yield _by("engine_memory_bytes", "The engine's memory, by what it is used for.", "use", values)
    total = None if use is None else use.total_bytes
    yield _gauge("engine_memory_total_bytes", "What the engine has of it.", total)


def _last_step(stats: Stats | None) -> Iterator[Metric]:
    """Tell of the engine's latest step: the batch as it is now."""
    step = stats.steps[-1] if stats is not None and stats.steps else None
    tokens: Mapping[str, float] = {}
    if step is not None:
        tokens = {"prefill": step.prefill_tokens, "decode": step.decode_tokens}
    yield _by("engine_batch_tokens", "Tokens in the latest step.", "phase", tokens)
    yield _gauge(
        "engine_batch_adapters",
        "Distinct adapters in the latest step, the bare base among them.",
        None if step is None else len(step.adapters),
    )
    yield _gauge(
        "engine_step_seconds",
        "What the latest step took.",
        None if step is None else step.step_ms / 1000,
    )


def _money(figures: Figures) -> Iterator[Metric]:
    receipts = GaugeMetricFamily(
        "lorikeet_receipts", "Receipts by which it is paid, or pays.", labels=("part", "state")
    )
    for labels, value in figures.receipts.items():
        receipts.add_metric(labels, value)
    yield receipts
    sums = figures.channels
    yield _by("channels", "Channels.", "part", {part: one.channels for part, one in sums.items()})
    for name, told, values in (
        ("spent", "What receipts cost.", {part: one.spent for part, one in sums.items()}),
        ("vouched", "What was promised.", {part: one.vouched for part, one in sums.items()}),
        ("locked", "What lies unspent.", {part: one.locked for part, one in sums.items()}),
    ):
        yield _by(f"channel_{name}_fee_units", f"{told} In all channels together.", "part", values)
    yield _gauge(
        "credited_fee_units",
        "What this node's owner and key were awarded in epochs.",
        None if figures.epoch is None else figures.credited,
    )
    yield _gauge("epoch", "The newest epoch that was recomputed.", figures.epoch)
    yield _by("chain_nodes", "Ethereum nodes that are asked.", "state", figures.chain_nodes)


def _spreads(spreads: Sequence[Spread]) -> Iterator[Metric]:
    for name, told in SPREADS.items():
        of_name = [one for one in spreads if one.name == name]
        labels = [label for label, _ in of_name[0].labels] if of_name else []
        family = HistogramMetricFamily(name, told, labels=["gen_ai_operation_name", *labels])
        for one in of_name:
            bounds = [*map(_bound, one.bounds), "+Inf"]
            buckets = list(zip(bounds, map(float, one.at_most), strict=True))
            values = ["chat", *(value for _, value in one.labels)]
            family.add_metric(values, buckets, sum_value=one.sum)
        yield family


def _bound(value: float) -> str:
    return str(float(value))


def _gauge(name: str, told: str, value: float | None) -> Metric:
    return GaugeMetricFamily(f"lorikeet_{name}", told, value)


def _by(name: str, told: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"lorikeet_{name}", told, labels=(label,))
    for word, value in values.items():
        family.add_metric((word,), value)
    return family
