"""What docs/protocols says in numbers and names is what the code does.

`FACTS` holds sentences with the code's own constants in them: a page that says otherwise fails. One
line makes one more fact.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from libp2p.kad_dht.common import BUCKET_SIZE, DEFAULT_TTL
from libp2p.kad_dht.provider_store import PROVIDER_RECORD_EXPIRATION_INTERVAL

import engine.messages
import node.app
import node.catalogue.announcements
import node.money.delivering
import node.money.wiring
import p2p.blocks.server
import p2p.host
import p2p.library
from node.answering import beliefs, places, quotes, quoting, router
from node.catalogue import demand, packaging, replicating, vetting
from node.config import Config
from node.http import public
from node.money import aggregator, backing, published, purse, staking, till
from node.testnet.plan import NETWORK as TESTNET
from node.wire import (
    attestation,
    channels,
    client_session,
    datanet,
    infer,
    node_session,
    quote,
    receipts,
    replay,
    witness,
)
from p2p import (
    admission,
    entrance,
    gossip,
    hardened_gossip,
    hardening,
    identity,
    kademlia,
    names,
    transport,
    walk,
    wire,
)
from p2p.blocks import limits
from p2p.dht import REPROVIDE_INTERVAL_S
from p2p.lookup import messages as lookup
from p2p.lookup import server as lookups
from p2p.websocket import listener
from p2p.websocket import stream as websocket
from proofs import (
    basecard,
    baseindex,
    batch,
    envelope,
    evidence,
    manifest,
    origin,
    payouts,
    promise,
    receipt,
    voucher,
    waiting,
)
from proofs.admission import LINE_S, MAX_LINE, SHARE
from proofs.aggregator import PACE
from proofs.attribution import background, blend, index, ladder, tokens
from proofs.attribution.shares import MIN_SHARE_FEE, POLICY, WHOLE_BPS
from proofs.chain import settlement, token
from proofs.chain.deploy import CHANNELS, COLLECTOR
from proofs.datanet import entries, rules
from proofs.digest import keccak
from proofs.ledger.accepted import MAX_EVIDENCE_PER_CHANNEL
from tests.golden import other
from tests.golden.page import PAGE, with_bytes
from tests.p2p.helpers import eventually

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs/protocols").glob("*.md"))}
GOLDEN = ROOT / "tests" / "golden"
PLAIN = {name: " ".join(text.split()) for name, text in PAGES.items()}
HOUR_S = 3600
DEFAULTS = Config(home=Path("anywhere"))

PROTOCOLS = {
    limits.PROTOCOL,
    lookup.PROTOCOL,
    infer.PROTOCOL,
    quote.PROTOCOL,
    replay.PROTOCOL,
    receipts.PROTOCOL,
    witness.PROTOCOL,
    datanet.PROTOCOL,
}
TOPICS = {
    node.catalogue.announcements.TOPIC,
    node.catalogue.announcements.NAMES_TOPIC,
    receipts.TOPIC,
    attestation.TOPIC,
    attestation.PLEDGES_TOPIC,
}
DHT = str(hardening.dht_protocol("<network>"))

FACTS = [
    ("p2p.md", f"base58( {identity._PEER_ID_HEADER.hex(' ')} || public key )"),
    ("p2p.md", f"at most {p2p.library.MAX_CONNECTIONS} connections, 3 of one peer"),
    ("p2p.md", f"at most {admission.MAX_INBOUND} are such as others opened"),
    ("p2p.md", f"{admission.MAX_HANDSHAKES} sockets may be in their handshake"),
    ("p2p.md", f"closed; one has {entrance.HANDSHAKE_TIMEOUT_S:.0f} s. Where there are more"),
    ("p2p.md", f"and {admission.MAX_VISITORS} of these are visitors'"),
    ("p2p.md", f"no stream and is here for {entrance.NEW_S:.0f} s"),
    ("p2p.md", f"may have {admission.MAX_PER_NETWORK}, and is refused more"),
    ("p2p.md", f"messages of at most {websocket.MAX_MESSAGE_BYTES:,} bytes"),
    ("p2p.md", f"our nodes send {websocket.SENT_MESSAGE_BYTES:,}"),
    ("p2p.md", f"has {listener.ASKING_TIMEOUT_S:.0f} s to ask for its WebSocket"),
    ("p2p.md", f"of more than {listener.MAX_ASKING} that are asking"),
    ("p2p.md", f"{hardening.MAX_INBOUND_STREAMS_PER_PEER} streams that one peer opens"),
    ("p2p.md", f"{transport.MAX_WINDOW_BYTES >> 20} MiB of a stream"),
    ("p2p.md", f"A payload has at most {wire.MAX_FRAME_BYTES:,} bytes"),
    ("p2p.md", f"at most {hardened_gossip.MAX_MESSAGE_BYTES:,} bytes of data"),
    ("p2p.md", f"an RPC has at most {hardened_gossip.MAX_RPC_BYTES:,} bytes"),
    ("p2p.md", f"takes {gossip.MESSAGES_PER_SECOND:.0f} messages a second"),
    ("p2p.md", f"a second, {gossip.BURST_MESSAGES} at once"),
    ("p2p.md", f"`{DHT}`"),
    ("p2p.md", f"at most {kademlia.PROVIDER_RECORDS_PER_10_S:,} from one peer within 10 s"),
    ("p2p.md", f"A node keeps {kademlia.MAX_PROVIDER_RECORDS:,} records"),
    ("p2p.md", f"{kademlia.MAX_PROVIDER_RECORDS_OF_PEER:,} of one peer and"),
    ("p2p.md", f"and {kademlia.MAX_PROVIDERS_OF_KEY} of one key"),
    ("p2p.md", f"Of {kademlia.MAX_VALUES:,} values"),
    ("p2p.md", f"the {walk.CLOSEST} closest that live"),
    ("p2p.md", f"longer than {1000 * walk.SLOW_S:.0f} ms"),
    ("names.md", f"than {names.MAX_AHEAD_S // HOUR_S} hours ahead of the reader's clock"),
    ("p2p.md", f"the {BUCKET_SIZE} peers closest to it"),
    ("p2p.md", f"A record lives {PROVIDER_RECORD_EXPIRATION_INTERVAL // HOUR_S} hours"),
    ("p2p.md", f"A value lives {DEFAULT_TTL // HOUR_S} hours"),
    ("p2p.md", f"under keys that begin with `/{names.NAMESPACE}/`"),
    ("p2p.md", f"`{DEFAULTS.network}` unless it is set, `{TESTNET}` in a network"),
    ("p2p.md", f"which may take up to {client_session.FIRST_TOKEN_DEADLINE_S:.0f} s"),
    ("p2p.md", f"digests → blocks | {p2p.blocks.server.STREAMS_PER_PEER} streams"),
    ("p2p.md", f"vouchers, receipt | {node.app.INFER_STREAMS_PER_PEER} streams"),
    ("p2p.md", f"promises | {node.money.wiring.AGGREGATOR_STREAMS_PER_PEER} streams"),
    ("blocks.md", f"# Blocks: `{limits.PROTOCOL}`"),
    ("blocks.md", f"1 to {limits.MAX_BLOCK_BYTES:,} bytes"),
    ("blocks.md", f"cut into blocks of {limits.BLOCK_BYTES:,} bytes"),
    ("blocks.md", f"1 ≤ n ≤ {limits.MAX_REQUEST_BLOCKS}"),
    ("p2p.md", f"records, providers | {lookups.STREAMS_PER_PEER} streams"),
    ("lookup.md", f"# Look-ups: `{lookup.PROTOCOL}`"),
    ("lookup.md", f"at most {lookup.MAX_LOOKUP_BYTES} bytes each"),
    ("lookup.md", f"at most {lookup.MAX_ANSWER_BYTES:,} bytes. Either"),
    ("lookup.md", f"bin of at most {lookup.MAX_KEY_BYTES} bytes"),
    ("lookup.md", f"at most {lookup.MAX_FOUND} bin, best first"),
    ("lookup.md", f"together at most {lookup.MAX_FOUND_BYTES:,} bytes"),
    (
        "lookup.md",
        f"at most {lookup.MAX_ADDRESSES} addresses of at most {lookup.MAX_ADDRESS_CHARS}",
    ),
    (
        "lookup.md",
        f"({lookups.MAX_REMEMBERED:,} answers, {lookups.MAX_REMEMBERED_BYTES >> 20} MiB)",
    ),
    ("lookup.md", f"found nothing for {lookups.NOTHING_AGE_S:.0f} s"),
    ("lookup.md", f"{lookups.LOOKUPS_PER_SECOND:.0f} a second, {lookups.BURST_LOOKUPS} at once"),
    ("lookup.md", f"{lookups.SEARCHES_PER_SECOND:.0f} a second, {lookups.BURST_SEARCHES} at once"),
    ("lookup.md", f"{lookups.MAX_SEARCHES} at once; one has {lookups.SEARCH_DEADLINE_S:.0f} s"),
    ("lookup.md", f"without a look-up | {lookups.IDLE_TIMEOUT_S:.0f} s"),
    ("lookup.md", f"not taken | {lookups.SEND_TIMEOUT_S:.0f} s"),
    ("p2p.md", f"what it would cost | {quoting.STREAMS_PER_PEER} streams"),
    ("stake.md", f"at most {evidence.MAX_EVIDENCE_BYTES:,} bytes, whose first"),
    ("stake.md", f'["receipts", version = {evidence.VERSION}, chain_id'),
    ("stake.md", f"convictions in the last {staking.LOOKED_BACK_TERMS} terms"),
    ("registry.md", f"waits {vetting.MOMENT_S:.0f} s for the first look"),
    ("registry.md", f"and again after {vetting.AGAIN_S:.0f} s"),
    ("stake.md", f"An answer waits {backing.LEARN_DEADLINE_S} s for what nobody"),
    ("quote.md", f"{places.ON_PROCESSORS} on processors and {places.ON_A_DEVICE} elsewhere"),
    ("stake.md", f"`least_bounty` ({DEFAULTS.least_bounty:.0f} LORI)"),
    ("datanet.md", f"# Datanets: `{datanet.PROTOCOL}`"),
    ("datanet.md", f"At most {entries.MAX_ENTRY_BYTES:,} bytes, a version"),
    ("datanet.md", f"a version {entries.MAX_VERSION_BYTES:,}. Signatures"),
    (
        "datanet.md",
        f"documents (1 to {entries.MAX_DOCUMENTS:,}), blocks (1 to {entries.MAX_TEXT_BLOCKS})",
    ),
    (
        "datanet.md",
        f"contributions (1 to {entries.MAX_LIVE:,}), totals (1 to {entries.MAX_PEOPLE:,})",
    ),
    ("datanet.md", f"bytes; {entries.MAX_BLOCK_BYTES:,} each but the last"),
    ("datanet.md", f"Report (≤ {entries.MAX_REPORT_BYTES >> 20} MiB)"),
    ("datanet.md", f"`, at most {entries.MAX_REGISTRATION_BYTES} bytes: the *registration*"),
    ("datanet.md", f"person once; at most {rules.MAX_PEOPLE:,}."),
    ("datanet.md", f"at most {rules.MAX_OPEN_CLAIMS} of one person whose texts"),
    ("datanet.md", f"at most {rules.MAX_GIVEN:,}, with {rules.MAX_ALL_DOCUMENTS:,} documents"),
    ("datanet.md", f"count 1 to {datanet.MAX_ROWS}]`"),
    ("datanet.md", f"as have at most {datanet.MAX_ROWS_BYTES:,} bytes"),
    ("datanet.md", f"not taken | {datanet.IDLE_DEADLINE_S:.0f} s |"),
    ("quote.md", f"# Quotes: `{quote.PROTOCOL}`"),
    ("quote.md", f"at most {quote.MAX_QUOTE_BYTES} bytes, whose"),
    (
        "quote.md",
        f"1 to {infer.MAX_PROMPT_TOKENS:,} | | | `max_tokens` | int, 1 to {infer.MAX_TOKENS:,}",
    ),
    ("quote.md", f"int, 0 to {quote.MAX_MS:,}: from"),
    ("quote.md", f"prices stand for {quoting.STANDS_MS / 1000:.0f} s"),
    ("quote.md", f"streams of one peer | {quoting.STREAMS_PER_PEER} |"),
    (
        "quote.md",
        f"one peer | {quoting.QUOTES_PER_SECOND:.0f} a second, {quoting.BURST_QUOTES:.0f} at once",
    ),
    (
        "quote.md",
        f"together | {quoting.ALL_QUOTES_PER_SECOND:.0f} a second,"
        f" {quoting.ALL_BURST_QUOTES:.0f} at once",
    ),
    ("quote.md", f"without a question | {quoting.LISTEN_DEADLINE_S:.0f} s"),
    ("quote.md", f"less every {demand.HALF_LIFE_S:.0f} s"),
    ("quote.md", f"another {demand.STRANGER_WORTH}, all others"),
    (
        "quote.md",
        f"together {demand.MAX_STRANGERS_WORTH:.0f} at most; from {demand.LEAST_WORTH} on",
    ),
    ("quote.md", f"fewer than {replicating.REPLICAS} others provide it"),
    ("quote.md", f"at most {router.MAX_QUOTED} candidates"),
    ("quote.md", f"fewer than {router.THIN} hold"),
    ("quote.md", f"waits {quotes.FIRST_S} s for the first quote"),
    ("quote.md", f"at least {quotes.REST_S} s"),
    ("quote.md", f"within {beliefs.WARM_S:.0f} s; then quotes older than {beliefs.FRESH_S:.0f} s"),
    ("quote.md", f"`({router.LEAST_S} s + expected)"),
    ("quote.md", f"{beliefs.BUSY_S} s for each request there"),
    ("quote.md", f"{router.NEW_CHANNEL_S} s where a channel"),
    ("quote.md", f"failed within {router.BENCH_S:.0f} s"),
    ("quote.md", f"({beliefs.SLACK_S} s are forgiven), 1 to {beliefs.MAX_DOUBT:.0f}"),
    ("quote.md", f"doubt is gone after {beliefs.FORGIVEN_S:.0f} s"),
    ("names.md", f"DHT key `/{names.NAMESPACE}/<owner peer id>/<name>`"),
    ("names.md", f"at most {names.MAX_RECORD_BYTES} bytes"),
    ("names.md", f"forgets a value {DEFAULT_TTL // HOUR_S} h after"),
    ("infer.md", f"# The infer protocol, `{infer.PROTOCOL}`"),
    ("infer.md", f"| `Ask` | `version` | int, {infer.VERSION} |"),
    ("infer.md", f"array of 1 to {infer.MAX_PROMPT_TOKENS:,} token ids"),
    ("infer.md", f"int, 1 to {infer.MAX_TOKENS:,}"),
    ("infer.md", f"at most {infer.MAX_STOP_IDS} token ids that end"),
    ("infer.md", f"int, 0 to {engine.messages.MAX_LOGPROBS}"),
    ("infer.md", f"array of at most {infer.MAX_TIMINGS} `[name, milliseconds]`"),
    ("infer.md", f"a `body` of {receipt.MAX_BODY_BYTES:,} bytes"),
    ("infer.md", f"loses at most {infer.PAY_TOKENS} tokens"),
    ("infer.md", f"fewer than {infer.PAY_TOKENS // 2 + 1} of the paid tokens"),
    ("infer.md", f"`withdrawDelay` is at least {till.MIN_WITHDRAW_DELAY_S} seconds"),
    ("infer.md", f"Our client writes {purse.WITHDRAW_DELAY_S:,}"),
    ("infer.md", f"at least every {channels.RECHECK_S:.0f} s while it is used"),
    ("infer.md", f"for at most {node_session.SHORT_DEADLINE_S:.0f} s, before"),
    ("infer.md", f"claims within {DEFAULTS.claim_interval_s:.0f} seconds"),
    ("infer.md", f"waits {DEFAULTS.unpaid_deadline_s:.0f} s (`unpaid_deadline_s`)"),
    ("infer.md", f"signs at most {client_session.MAX_PENDING} in one visit"),
    ("infer.md", f"`Ask` {node_session.ASK_DEADLINE_S:.0f} s"),
    ("infer.md", f"`Begin` {node_session.BEGIN_DEADLINE_S:.0f} s"),
    ("infer.md", f"`Offer` {client_session.OFFER_DEADLINE_S:.0f} s"),
    ("infer.md", f"first `Output` {client_session.FIRST_TOKEN_DEADLINE_S:.0f} s"),
    ("infer.md", f"one {client_session.TOKEN_DEADLINE_S:.0f} s, `Settle`"),
    ("infer.md", f"after {DEFAULTS.grace_s:.0f} s (`grace_s`)"),
    ("infer.md", f"at least {MIN_SHARE_FEE} units for each share"),
    ("infer.md", f"{payouts.MAX_CHANNEL_ACCOUNTS} accounts that one channel pays"),
    ("infer.md", f"`Settle` {node_session.SETTLE_DEADLINE_S:.0f} s"),
    ("settlement.md", f"200, at most {limits.MAX_BLOCK_BYTES:,} of them"),
    ("settlement.md", f"of each of the latest {published.MAX_PROVIDED} batches"),
    ("p2p.md", f"for the latest {published.MAX_PROVIDED} |"),
    ("settlement.md", f"sha256({published._ARCHIVE.decode()!r} || settlement".replace("'", '"')),
    ("p2p.md", f"of `{published._ARCHIVE.decode()!r} || settlement".replace("'", '"')),
    ("settlement.md", f"({len(published._ARCHIVE)} bytes of ASCII"),
    ("settlement.md", f"takes {public.MAX_CONNECTIONS} connections, each for"),
    ("settlement.md", f"each for {public.MAX_CONNECTION_S:.0f} s at most"),
    ("settlement.md", f"{public.CLIENT_REQUESTS_PER_S:.0f} requests a second ("),
    ("settlement.md", f"({public.CLIENT_REQUESTS_AT_ONCE} at once) from one address"),
    ("settlement.md", f"and {public.REQUESTS_PER_S:.0f} a second ({public.REQUESTS_AT_ONCE} at"),
    ("delivery.md", f"the topic `{receipts.TOPIC}`, `{receipts.PROTOCOL}` and"),
    ("delivery.md", f"at most {receipts.MAX_PROMISED_BYTES:,} bytes together"),
    ("delivery.md", f"a `bin` of {witness.HEADER_BYTES} bytes"),
    ("delivery.md", f"from each side, {witness.ATTEST_DEADLINE_S:.0f} s for each"),
    ("delivery.md", f"1 to {receipts.MAX_DELIVERED} envelopes"),
    ("delivery.md", f"at most {envelope.MAX_ENVELOPE_BYTES >> 10} KiB, canonical"),
    ("delivery.md", f"period of {PACE.grace_s} s (`grace_s`)"),
    ("delivery.md", f"now + {PACE.promise_s} s (`promise_s`)"),
    ("delivery.md", f"at most {SHARE} times what is left"),
    ("delivery.md", f"asks again within {LINE_S} s. The line has {MAX_LINE:,} places"),
    ("delivery.md", f"At most {batch.MAX_BATCH_ADAPTERS} adapters are new in an epoch"),
    ("delivery.md", f"for at most {MAX_EVIDENCE_PER_CHANNEL} places of a channel"),
    ("delivery.md", f"it waits, at most {waiting.WAITING_S} s."),
    ("delivery.md", f"{waiting.MAX_WAITING_PER_PAYER} for each payer, {waiting.MAX_WAITING:,} in"),
    ("delivery.md", f"Up to {batch.MAX_BATCH_RECEIPTS:,} receipts that are still claimed"),
    ("delivery.md", f"every {node.money.delivering.OUTBOX_INTERVAL_S:.0f} s while some"),
    ("delivery.md", f"waits {aggregator.IDLE_DEADLINE_S:.0f} s for it"),
    ("delivery.md", f"the answer {receipts.DELIVER_DEADLINE_S:.0f} s each"),
    ("receipt.md", f"A body has at most {receipt.MAX_BODY_BYTES:,} bytes"),
    ("receipt.md", f"at most {receipt.MAX_RECEIPT_BYTES} bytes. The node's"),
    ("receipt.md", f"the least fee is {MIN_SHARE_FEE} units a share"),
    ("receipt.md", f"there are at most {payouts.MAX_CHANNEL_ACCOUNTS}:"),
    ("receipt.md", f"and sent to the aggregator, at most {envelope.MAX_ENVELOPE_BYTES >> 10} KiB"),
    ("receipt.md", f"An array of {len(receipt.Receipt.__struct_fields__)} elements"),
    ("receipt.md", f"|| nonce ({voucher.SALT_NONCE_BYTES})"),
    ("manifest.md", f"at most {manifest.MAX_MANIFEST_BYTES >> 10} KiB"),
    ("basecard.md", f"at most {basecard.MAX_CARD_BYTES >> 10} KiB"),
    ("basecard.md", f"size ≤ {baseindex.MAX_INDEX_BYTES >> 20} MiB"),
    ("basecard.md", f"size ≤ {basecard.MAX_TOKENIZER_BYTES >> 20} MiB"),
    ("basecard.md", f"up to {basecard.MAX_TEMPLATE_BYTES:,} bytes"),
    ("basecard.md", f"up to {basecard.MAX_STOP_IDS} token ids"),
    ("basecard.md", f"1 to {baseindex.MAX_FILES:,} of [name"),
    ("basecard.md", f"Blocks have {baseindex.BLOCK_BYTES:,} bytes"),
    ("basecard.md", f"than weights {baseindex.MAX_SIDE_FILE_BYTES >> 20} MiB"),
    ("manifest.md", f"up to {manifest.MAX_CONTRIBUTORS} of [address 20"),
    *(
        ("manifest.md", f"| `{name}` | {max_bytes:,}")
        for name, max_bytes in packaging.MAX_FILE_BYTES.items()
    ),
    ("attribution.md", f"at most {tokens.MAX_HEADER_BYTES:,} bytes"),
    ("attribution.md", f"multiple of {tokens.ALIGNMENT_BYTES} bytes"),
    ("attribution.md", f"| string, `{tokens.KIND}` |"),
    ("attribution.md", f"| int, 1 to {tokens.MAX_RANKS:,} |"),
    ("attribution.md", f"| int, 0 to {manifest.MAX_CONTRIBUTORS}; 0 is a background |"),
    ("attribution.md", f"up to {tokens.MAX_CONTRIBUTIONS:,} of [contributor"),
    ("attribution.md", f"up to {tokens.MAX_VOCABULARY:,} ints"),
    ("attribution.md", f"A *window* is a run of {index.WINDOW} tokens"),
    ("attribution.md", f"## `{origin.RULE}`"),
    ("attribution.md", f"S = 2^{background.ONE.bit_length() - 1}."),
    ("attribution.md", f"p := {background.UNIFORM} "),
    ("attribution.md", f"for l = 1, 2, … {index.MAX_CONTEXT} while"),
    ("attribution.md", f"log2(b), {ladder.MAX_TOKEN_BITS} · {blend.BIT})"),
    ("attribution.md", f"`none_bits` ({blend.NONE_BITS})"),
    ("manifest.md", f"in its `Offer` | {POLICY.node_bps:,} |"),
    ("manifest.md", f"{POLICY.creator_bps:,}; {POLICY.creator_bps + POLICY.contributors_bps:,}"),
    ("manifest.md", f"{POLICY.contributors_bps:,} divided by weight"),
    ("manifest.md", f"the owner's, role 0, {WHOLE_BPS:,}"),
    ("settlement.md", f"zeros, sorted, at most {batch.MAX_BATCH_ADAPTERS}."),
    ("settlement.md", f"1 to {batch.MAX_BATCH_RECEIPTS:,}, sorted"),
    ("settlement.md", f"one array of 10, at most {batch.MAX_BATCH_BYTES >> 20} MiB"),
    ("settlement.md", f"({settlement.PAGE_BLOCKS:,} blocks at a time)"),
]
"""What a page must say, spaces and line ends aside."""

STRUCTS = {
    "receipt.md": [receipt._RECEIPT_TYPE, voucher._CONFIG_TYPE, voucher._VOUCHER_TYPE],
    "chain.md": [token.RECEIVE_TYPE],
    "delivery.md": [promise._PROMISE_TYPE],
}
"""EIP-712 types: their hashes, of exactly what the page writes."""


@pytest.mark.parametrize(("page", "fact"), FACTS, ids=[f"{page}: {fact}" for page, fact in FACTS])
def test_a_page_says_what_the_code_does(page: str, fact: str) -> None:
    assert " ".join(fact.split()) in PLAIN[page].replace("\\|", "|")


def test_what_is_said_every_minute_and_every_hour_is_said_so_often() -> None:
    assert DEFAULTS.republish_interval_s == 60.0
    assert REPROVIDE_INTERVAL_S == HOUR_S
    assert "every minute (`republish_interval_s`)" in PLAIN["p2p.md"].replace(
        "again every", "every"
    )


@pytest.mark.parametrize("page", STRUCTS)
def test_signed_structs_are_written_as_they_are_hashed(page: str) -> None:
    written = {
        keccak(text.encode()) for text in re.findall(r"[A-Z]\w+\(\w+ [^()\n]+\)", PAGES[page])
    }
    assert set(STRUCTS[page]) <= written


def test_the_contracts_stand_where_the_page_says() -> None:
    written = {text.lower() for text in re.findall(r"0x([0-9a-fA-F]{40})", PAGES["chain.md"])}
    assert {CHANNELS.hex(), COLLECTOR.hex()} <= written


def test_pages_name_the_protocols_and_topics_that_there_are_and_p2p_all_of_them() -> None:
    everywhere = "\n".join(PAGES.values())
    assert set(re.findall(r"/lorikeet/[a-z]+/\d+", everywhere)) == PROTOCOLS
    assert set(re.findall(r"/<network>/([a-z]+)`", everywhere)) == TOPICS
    assert set(re.findall(r"/<network>/kad/[\d.]+", everywhere)) == {DHT}
    for protocol in PROTOCOLS:
        assert f"| `{protocol}` |" in PAGES["p2p.md"]
    for topic in TOPICS:
        assert f"| `/<network>/{topic}` |" in PAGES["p2p.md"]


async def test_a_host_speaks_the_protocols_of_the_page_and_no_others() -> None:
    config = p2p.host.NetworkConfig(network="<network>")
    listed = set(re.findall(r"`(/[^` ]+/\d+\.\d+\.\d+)`", PAGES["p2p.md"]))
    listed |= set(re.findall(r"`(/libp2p/[^` ]+)`", PAGES["p2p.md"]))
    below = {"/multistream/1.0.0", str(p2p.library.YAMUX_PROTOCOL)}  # spoken, not served
    assert f"`{p2p.library.NOISE_PROTOCOL}`" in PAGES["p2p.md"]
    served = listed - {"/ipfs/kad/1.0.0"} - below
    async with p2p.host.open_host(identity.Identity.generate(), config) as host:

        def spoken() -> set[str]:
            return set(map(str, host._library.get_mux().get_protocols()))

        with suppress(trio.TooSlowError):  # it offers to relay when it has looked round
            await eventually(lambda: spoken() == served, deadline_s=60)
        assert spoken() == served
    assert below <= listed


# --- pages, files and links ---


@pytest.mark.parametrize("page", PAGES)
def test_links_and_named_files_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGES[page]):
        assert (ROOT / "docs/protocols" / target).is_file(), target
    for path in re.findall(r"`((?:engine|node|p2p|proofs|tests|scripts)/[\w./]*)`", PAGES[page]):
        assert (ROOT / path).exists(), path


def test_every_golden_file_is_named_in_a_page_and_described() -> None:
    described = (GOLDEN / "README.md").read_text()
    everywhere = "\n".join(PAGES.values())
    for path in GOLDEN.glob("*.json"):
        assert path.name in everywhere, path.name
        assert f"| `{path.name}` |" in described, path.name


def test_the_conversations_are_those_of_the_vectors() -> None:
    text = PAGE.read_text()
    talks = other.load("infer")["talks"]
    assert with_bytes(text, talks) == text
    sections = re.split(r"^## `(\w+)`$", text, flags=re.MULTILINE)[1:]
    assert sections[::2] == [talk["name"] for talk in talks]
    for talk, section in zip(talks, sections[1::2], strict=True):
        wanted = [(each["from"], each["message"], each["means"]) for each in talk["messages"]]
        drawn = re.findall(r"^ +\|(<?)-+ \d+ (\w+) -+>?\|   (.+)$", section, re.MULTILINE)
        assert [("node" if left else "client", *rest) for left, *rest in drawn] == wanted
        told = re.findall(r"^    (\d+) ([→←]) (\w+): ", section, re.MULTILINE)
        assert told == [
            (str(place), "→" if sender == "client" else "←", name)
            for place, (sender, name, _) in enumerate(wanted, 1)
        ]


def test_the_first_message_is_read_element_by_element() -> None:
    section = PAGES["conversations.md"].split("## Reading the first message")[1].split("\n## ")[0]
    elements = re.findall(r"^    ([0-9a-f]+) ", section, re.MULTILINE)
    assert "".join(elements) == other.load("infer")["talks"][0]["messages"][0]["hex"]


def test_every_attack_has_a_test_of_its_name() -> None:
    table = PAGES["settlement.md"].partition("## Attacks and their tests")[2]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`([^`]+)::([^`]+)`", tests) for _, _, tests in rows]
    assert all(named), "an attack without a test"
    played = {int(number) for number, _, _ in rows}
    assert played == set(range(1, 17)) - {9}  # 9, junk answers, is not about the money's rules
    for path, test in {pair for pairs in named for pair in pairs}:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.M), (path, test)
