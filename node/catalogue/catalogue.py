"""Presents one daemon's adapters to its faces and its requests.

Decides nothing: passes calls on to names, holdings, what is known, and reports over them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

import trio

from engine.verdict import Calibration
from p2p.cid import Cid
from p2p.errors import P2pError, sole_error
from p2p.identity import Identity, peer_id_of
from p2p.peers import PeerAddress
from proofs.attribution.shares import AdapterTerms, terms_of
from proofs.cocktail import WEIGHT_UNIT, Cocktail, make_cocktail
from proofs.codec import encode
from proofs.errors import ManifestError
from proofs.hextext import from_hex, to_hex
from proofs.manifest import Manifest
from proofs.registration import MAX_REGISTERED_PARENTS, MAX_ROYALTY_BPS, Registration
from proofs.weights import WeightsDigest

from ..api.adapters import (
    AdapterInfo,
    AdapterState,
    AlikeInfo,
    ArrivingInfo,
    HeldInfo,
    PullReport,
    PushTold,
    RegisteredInfo,
    SearchRequest,
    ShownInfo,
    VersionInfo,
    WhyHeld,
)
from ..api.answers import Chosen, MixedIn, Scored
from ..api.status import FilesInfo, OfferedInfo
from ..errors import AdapterError, BadRequest, UnknownModel
from ..together import Together
from .cocktails import Cocktails
from .fetching import Fetcher, Pulled, since_ms
from .hashing import FileHashes
from .holding import Holdings, size_of
from .known import Known
from .matching import LEAST_SCORE, Described, Matcher
from .mixing import parse_mix, write_mix
from .names import Names
from .owning import Ownership
from .packaging import VERIFICATION_FILE, made_of, read_calibration
from .popularity import Popularity
from .publishing import Publisher
from .searching import rank
from .vetting import Vetting

MAX_RESULTS = 50
MAX_FETCHED = 256
MAX_CHOOSABLE = 1_000  # adapters that a prompt is compared with
WITHDRAWAL_DEADLINE_S = 1.0


@dataclass(frozen=True)
class Servable:
    """An adapter that is held, and how it came; its files take `size_bytes`."""

    adapter: Manifest | Cocktail
    timings_ms: dict[str, float]
    size_bytes: int


@dataclass(frozen=True)
class Catalogue:
    """Every adapter this daemon holds or has heard of."""

    base_name: str
    names: Names
    holdings: Holdings
    known: Known
    fetcher: Fetcher
    publisher: Publisher
    popularity: Popularity
    cocktails: Cocktails
    ahead_fetcher: Fetcher
    """Fetches what nobody waits for."""
    ownership: Ownership
    ahead: dict[Cid, list[PeerAddress]] = field(default_factory=dict)
    """Providers that were looked up beside the last name."""
    finding: Together[Cid, list[PeerAddress]] = field(default_factory=Together)
    """Look-ups of providers that are under way."""
    fetched: dict[Cid, Manifest] = field(default_factory=dict)
    """Manifests that were wanted here and not announced."""
    hashes: FileHashes = field(default_factory=FileHashes)
    matcher: Matcher = field(default_factory=Matcher)
    vetting: Vetting | None = None

    @property
    def base(self) -> bytes:
        """Return the digest of the base that is served or asked for here."""
        return self.holdings.base

    # --- what requests ask ---

    async def resolve(
        self, model: str, are_wanted: Callable[[Cid], bool] = lambda cid: False
    ) -> Cid | None:
        """Return the CID that a text names, None for the bare base; several names with weights are
        a cocktail. Raises UnknownModel, BadRequest and, for a cocktail, what `manifest` raises.

        Where the name was heard of and its providers `are_wanted`, they are looked up meanwhile.
        """
        mix = None if self.names.is_base(model) else parse_mix(model)
        if mix is not None:
            return await self._resolve_mix(mix)
        guess = self.names.guess(model)
        if guess is None or not are_wanted(guess):
            return await self.names.resolve(model)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_ahead, guess)
            return await self.names.resolve(model)

    async def hold(self, cid: Cid) -> Servable:
        """Make an adapter or cocktail servable here. Raises NoProvider, AdapterError,
        EngineError.
        """
        return await self._hold(cid, self.holdings.hold)

    async def hold_guest(self, cid: Cid) -> Servable:
        """The same for a stranger: it makes room again when others are wanted more."""
        return await self._hold(cid, self.holdings.hold_guest)

    def learn(self, cocktail: bytes) -> Cid:
        """Remember what a cocktail is made of. Raises AdapterError."""
        return self.cocktails.learn(cocktail)

    def calibration(self, cid: Cid) -> Calibration | None:
        """Read how far honest answers of a held adapter miss in a replay; None where its creator
        did not measure it. Raises AdapterError.
        """
        manifest = self.holdings.find(cid)
        if manifest is None:
            return None
        layout = self.holdings.layout(cid, manifest)
        path = next((path for path in layout if path.name == VERIFICATION_FILE), None)
        return None if path is None else read_calibration(path)

    async def terms(self, cid: Cid) -> AdapterTerms:
        """Return who shares a fee for an adapter or cocktail. Raises as `manifest` does."""
        return terms_of(self.cocktails.find(cid) or await self.manifest(cid))

    async def vet(self, cid: Cid) -> None:
        """Look, before an answer of others is paid for, whose the weights of its adapter are, or of
        those that a cocktail mixes. Raises RegisteredElsewhere, RoyaltyUnpaid, and as `manifest`
        does.
        """
        if self.vetting is None:
            return
        cocktail = self.cocktails.find(cid)
        if cocktail is None:
            await self.vetting.check(cid, await self.manifest(cid))
            return
        for parent in cocktail.parents:
            await self.vetting.check(Cid(parent.digest), parent.parsed)

    def parents(self, cid: Cid | None) -> tuple[MixedIn, ...]:
        """Return what a cocktail is mixed of; nothing for what is none."""
        cocktail = self.cocktails.find(cid) if cid is not None else None
        return tuple(
            MixedIn(parent.parsed.name, str(Cid(parent.digest)), parent.weight / WEIGHT_UNIT)
            for parent in (cocktail.parents if cocktail else ())
        )

    def choose(self, prompt: str) -> Chosen:
        """Choose an adapter for a prompt by what is said of those that are held here, or whose
        creators this node trusts; the base where none fits.
        """
        matches = self.matcher.rank(prompt, self._choosable())
        scored = [
            Scored(one.adapter.manifest.name, str(one.adapter.cid), one.score)
            for one in matches[:2]
        ]
        fitting = [one for one in scored if one.score >= LEAST_SCORE]
        if not fitting:
            return Chosen(Scored("base", None, 0.0), scored[0] if scored else None)
        return Chosen(fitting[0], scored[1] if len(scored) > 1 else None)

    def _choosable(self) -> list[Described]:
        """List the newest version of each adapter that `auto` may choose."""
        newest: dict[tuple[bytes, str], tuple[Cid, Manifest]] = {}
        trusted = (
            (cid, manifest)
            for cid, manifest in self.known
            if self.names.is_trusted(peer_id_of(manifest.creator))
        )
        for cid, manifest in chain(trusted, self.holdings.held()):
            key = manifest.creator, manifest.name
            is_newer = key not in newest or newest[key][1].created_at < manifest.created_at
            if manifest.base == self.base and is_newer and not self.known.is_withdrawn(manifest):
                newest[key] = cid, manifest
        return [
            Described(cid, manifest, self.known.about(cid))
            for cid, manifest in list(newest.values())[:MAX_CHOOSABLE]
        ]

    def cocktail(self, cid: Cid | None) -> bytes:
        """Return the bytes of a cocktail, empty for what is none."""
        return self.cocktails.bytes_of(cid) if cid is not None else b""

    async def _resolve_mix(self, mix: Sequence[tuple[str, int]]) -> Cid:
        """Make the cocktail of these names with weights; one with weight 1 is the adapter."""
        weights: dict[bytes, int] = {}

        async def find(name: str, weight: int) -> None:
            cid = await self.names.resolve(name)
            if cid is None:
                raise BadRequest(f"{name!r} is the base, which a cocktail changes and does not mix")
            manifest = encode(await self.manifest(cid))
            if manifest in weights:
                raise BadRequest(f"{name!r} stands twice in the cocktail; add its weights up")
            weights[manifest] = weight

        try:
            async with trio.open_nursery() as nursery:
                for name, weight in mix:
                    nursery.start_soon(find, name, weight)
        except BaseExceptionGroup as group:  # several may be unknown: one is told
            raise _first_error(group) from None
        if list(weights.values()) == [WEIGHT_UNIT]:
            return Cid.of(*weights)
        try:
            return self.cocktails.learn(make_cocktail(weights))
        except ManifestError as error:
            raise BadRequest(f"these adapters cannot be mixed: {error}") from error

    async def _hold(self, cid: Cid, hold: Callable[[Cid], Awaitable[Pulled]]) -> Servable:
        cocktail = self.cocktails.find(cid) if self.holdings.find(cid) is None else None
        if cocktail is None:
            pulled = await self._unless_withdrawn(cid, hold)
            return Servable(pulled.manifest, pulled.timings_ms, size_of(pulled.manifest))
        timings_ms: dict[str, float] = {}
        sizes = []

        async def hold_parent(parent: Cid) -> None:
            pulled = await self._unless_withdrawn(parent, hold)
            sizes.append(size_of(pulled.manifest))
            for part, took_ms in pulled.timings_ms.items():
                timings_ms[part] = max(timings_ms.get(part, 0.0), took_ms)

        try:
            async with trio.open_nursery() as nursery:
                for parent in cocktail.parents:
                    nursery.start_soon(hold_parent, Cid(parent.digest))
        except BaseExceptionGroup as group:  # several may be unknown: one is told
            raise _first_error(group) from None
        mixed = await self.holdings.mix(cid, cocktail)
        timings_ms["load"] = timings_ms.get("load", 0.0) + mixed.load_ms
        return Servable(cocktail, timings_ms, sum(sizes))

    def missing(self, cids: Sequence[Cid]) -> list[Cid]:
        """Return those of these adapters that are not held."""
        return [cid for cid in cids if self.holdings.find(cid) is None]

    def missing_bytes(self, cids: Sequence[Cid]) -> int | None:
        """Return the bytes to fetch of these adapters; None where one was never met."""
        manifests = [self.find(cid) for cid in self.missing(cids)]
        return None if None in manifests else sum(size_of(one) for one in manifests if one)

    async def fetch_ahead(self, cid: Cid) -> int:
        """Make an adapter servable that strangers may ask for; return its size in bytes, 0 where it
        was here.
        """
        manifest = self.known.find(cid)
        if manifest is not None:
            self._check_not_withdrawn(manifest)
        return await self.holdings.fetch_ahead(cid, self.ahead_fetcher)

    async def providers(self, cid: Cid) -> list[PeerAddress]:
        """Find peers that say they serve this adapter (or base)."""
        return self.ahead.pop(cid, None) or await self._find_providers(cid)

    async def _find_providers(self, cid: Cid) -> list[PeerAddress]:
        return await self.finding.get(cid, partial(self.fetcher.find_providers, cid))

    async def _look_ahead(self, cid: Cid) -> None:
        """Find the providers of what a name most likely means, for the question that follows."""
        try:
            found = await self._find_providers(cid)
        except P2pError:
            return  # whoever wants them asks again, and is told
        self.ahead.clear()
        self.ahead[cid] = found

    async def _unless_withdrawn(self, cid: Cid, hold: Callable[[Cid], Awaitable[Pulled]]) -> Pulled:
        """Hold an adapter whose creator has not withdrawn it; what is not known of that is asked
        while it is fetched.
        """
        manifest = self.holdings.find(cid) or self.known.find(cid)
        if manifest is not None:
            self._check_not_withdrawn(manifest)
        if self.holdings.find(cid) is not None:
            return await hold(cid)
        if manifest is None:
            pulled = await hold(cid)
            await self._ask_version(pulled.manifest)
        else:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ask_version, manifest)
                    pulled = await hold(cid)
            except BaseExceptionGroup as group:  # the nursery wraps; the caller knows its names
                raise sole_error(group) from None
        self._check_not_withdrawn(pulled.manifest)
        return pulled

    async def _ask_version(self, manifest: Manifest) -> None:
        """Have what its creator says of a version known, if somebody knows in time."""
        with trio.move_on_after(WITHDRAWAL_DEADLINE_S):
            await self.names.find_version(manifest)

    def _check_not_withdrawn(self, manifest: Manifest) -> None:
        if self.known.is_withdrawn(manifest):
            name = f"{peer_id_of(manifest.creator)}/{manifest.name}"
            raise AdapterError(
                f"version {manifest.adapter_version} of {manifest.name!r} was withdrawn by its"
                f" creator; `lorikeet versions {name}` lists what is left"
            )

    def find(self, cid: Cid) -> Manifest | None:
        """Return the manifest with this CID, if it was met."""
        return self.holdings.find(cid) or self.known.find(cid) or self.fetched.get(cid)

    def find_adapter(self, cid: Cid) -> Manifest | Cocktail | None:
        """Return the manifest or the cocktail with this CID, if it was met."""
        return self.find(cid) or self.cocktails.find(cid)

    async def manifest(self, cid: Cid) -> Manifest:
        """Return the manifest with this CID, fetching it when it is not here.

        Raises NoProvider, AdapterError.
        """
        found = self.find(cid)
        if found is None:
            pulled = await self.fetcher.fetch_manifest(cid)
            self.fetched[cid] = found = pulled.manifest
            while len(self.fetched) > MAX_FETCHED:
                del self.fetched[next(iter(self.fetched))]
        return found

    # --- what the daemon's faces ask ---

    def held(self) -> list[HeldInfo]:
        """List the adapters that are held, with why and since when nobody has wanted them."""
        return [
            HeldInfo(
                manifest.name,
                str(cid),
                manifest.adapter_version,
                size_of(manifest),
                why=self._why(cid),
                used_at=self.holdings.used_at(cid),
            )
            for cid, manifest in self.holdings.held()
        ] + [
            HeldInfo(
                write_mix([(one.parsed.name, one.weight) for one in mixed.cocktail.parents]),
                str(cid),
                "",
                mixed.size_bytes,
                why="mixed",
                used_at=mixed.used_at,
            )
            for cid, mixed in self.holdings.mixed()
        ]

    def _why(self, cid: Cid) -> WhyHeld:
        is_ahead = self.holdings.is_ahead(cid)
        if is_ahead is not None:
            return "ahead" if is_ahead else "asked"
        return "published" if self.publisher.has_published(cid) else "pulled"

    def arriving(self) -> list[ArrivingInfo]:
        """List the adapters that are being fetched, and how far each is."""
        return [
            ArrivingInfo(manifest.name, str(cid), size_of(manifest), done_bytes)
            for cid, manifest, done_bytes in self.holdings.arriving()
        ]

    async def pull(self, model: str) -> PullReport:
        """Resolve a text and hold the adapter that it names."""
        started = time.perf_counter()
        cid = await self._resolve_one(model)
        if cid is None:
            raise AdapterError("the bare base needs no pull")
        lookup_ms = since_ms(started)
        pulled = await self.holdings.hold(cid)
        times = pulled.timings_ms
        return PullReport(
            pulled.manifest.name,
            str(cid),
            size_of(pulled.manifest),
            lookup_ms + times.get("lookup", 0.0),
            fetch_ms=times.get("fetch", 0.0),
            verify_ms=times.get("verify", 0.0),
            load_ms=times.get("load", 0.0),
            blocks_by_peer=pulled.blocks_by_peer,
            rejected=pulled.rejected,
        )

    async def files(self, model: str, commit: str | None = None) -> FilesInfo:
        """Hold the adapter that a text names, of that commit where one is known, and say where its
        files lie.

        Raises UnknownModel for the bare base, and as `hold_guest` does.
        """
        known = self._find_commit(model, commit) if commit else None
        cid = known or await self._resolve_one(model)
        if cid is None:
            raise UnknownModel(model)
        manifest = (await self.hold_guest(cid)).adapter
        if isinstance(manifest, Cocktail):
            raise AdapterError("a cocktail has no files of its own; ask for its adapters'")
        files = await self.hashes.describe(self.holdings.layout(cid, manifest))
        if files is None:  # they broke on the disk, or just made room for others
            self.holdings.drop(cid)
            await self.hold_guest(cid)
            files = await self.hashes.describe(self.holdings.layout(cid, manifest))
        if files is None:
            raise AdapterError(f"the files of {model!r} do not stay whole on this disk")
        creator = peer_id_of(manifest.creator)
        return FilesInfo(
            manifest.name, str(cid), cid.digest.hex(), creator, manifest.licence, files=files
        )

    async def _resolve_one(self, model: str) -> Cid | None:
        """Return what names one adapter means. Raises as `resolve` does, BadRequest for several."""
        if not self.names.is_base(model) and parse_mix(model) is not None:
            raise BadRequest(
                f"{model[:80]!r} is mixed when it is asked for, and lies nowhere; name one adapter"
            )
        return await self.names.resolve(model)

    def _find_commit(self, text: str, commit: str) -> Cid | None:
        """Return the adapter under a text, held or heard of, whose digest begins like that."""
        owner, _, name = text.rpartition("/")
        for cid, manifest in chain(self.holdings.held(), self.known):
            if not cid.digest.hex().startswith(commit):
                continue
            is_owner = owner in ("", peer_id_of(manifest.creator))
            if text == str(cid) or (is_owner and name == manifest.name):
                return cid
        return None

    async def unpin(self, model: str) -> AdapterInfo:
        """Resolve a text and let the adapter that it names make room for others."""
        cid = await self._resolve_one(model)
        if cid is None:
            raise AdapterError("the bare base always stays; name an adapter")
        return self._describe(cid, self.holdings.unpin(cid), num_others=0)

    async def publish(
        self,
        folder: Path,
        creator: Identity | None,
        told: PushTold | None = None,
        *,
        in_place: bool = False,
    ) -> AdapterInfo:
        """Sign and offer a PEFT folder; with `in_place`, without a copy of it."""
        register = None
        owed: list[Registration] = []
        if told is not None and told.register:
            parents = _read_parents(told)
            if self.ownership.has_registry:
                owed = await self.ownership.find_parents(parents)
                made_of_here = await trio.to_thread.run_sync(made_of, folder, told)
                for digest, parent in await self._find_registered(made_of_here):
                    if parent not in owed:
                        parents = (*parents, digest)
                        owed.append(parent)
            register = self._registering(creator, told, parents)
        published = await self.publisher.publish(
            folder, creator, told, in_place=in_place, register=register, owed=owed
        )
        info = self._describe(published.cid, published.manifest, num_others=0)
        weights, why_none = await self._weigh(published.cid)
        return replace(info, weights=weights.brain.hex() if weights else "", note=why_none)

    async def _find_registered(
        self, manifests: Sequence[bytes]
    ) -> list[tuple[bytes, Registration]]:
        """Return what the registry says of adapters that another was made of, by their manifests,
        and under which digest of their weights; of those that are registered. Raises as
        `hold_guest` does.
        """
        found = []
        for cid in map(Cid, manifests):
            await self.hold_guest(cid)
            weights = await self.ownership.weigh(cid, self.holdings.paths(cid))
            for digest in (weights.brain, weights.half):
                parent = await self.ownership.find(WeightsDigest(digest, digest))
                if parent is not None:
                    found.append((digest, parent))
                    break
        return found

    def _registering(
        self, creator: Identity | None, told: PushTold, parents: tuple[bytes, ...]
    ) -> Callable[[Cid], Awaitable[object]]:
        """Return what registers an adapter's weights before it is told. Raises BadRequest."""
        if len(parents) > MAX_REGISTERED_PARENTS:
            raise BadRequest(
                f"it was made of {len(parents)} registered adapters; {MAX_REGISTERED_PARENTS} can"
                " be named"
            )
        if not 0 <= told.royalty_bps <= MAX_ROYALTY_BPS:
            raise BadRequest(f"a royalty is 0 to {MAX_ROYALTY_BPS} basis points")
        signer = self.publisher.signer(creator)

        async def register(cid: Cid) -> None:
            await self.ownership.register(
                cid,
                self.holdings.paths(cid),
                signer,
                royalty_bps=told.royalty_bps,
                parents=parents,
            )

        return register

    async def show(self, model: str) -> ShownInfo:
        """Hold the adapter that a text names, and look at its weights: their digest, to whom they
        are registered, and which held adapters add nearly the same.
        """
        cid = await self._resolve_one(model)
        if cid is None:
            raise BadRequest("the bare base has no weights of an adapter; name an adapter")
        manifest = (await self.hold_guest(cid)).adapter
        if isinstance(manifest, Cocktail):
            raise BadRequest("a cocktail has no weights of its own; ask for its adapters'")
        weights, why_none = await self._weigh(cid)
        registration = None if weights is None else await self.ownership.find(weights)
        others = [
            (AlikeInfo(other.name, str(at), peer_id_of(other.creator)), self.holdings.paths(at))
            for at, other in reversed(self.holdings.held())
            if at != cid
        ]
        return ShownInfo(
            self._describe(cid, manifest, num_others=0),
            weights=weights.brain.hex() if weights else "",
            weights_half=weights.half.hex() if weights else "",
            why_none=why_none,
            has_registry=self.ownership.has_registry,
            registered=_registered(registration, manifest) if registration else None,
            alike=await self.ownership.find_alike(self.holdings.paths(cid), others),
        )

    async def _weigh(self, cid: Cid) -> tuple[WeightsDigest | None, str]:
        """Return a held adapter's digest, or why it has none."""
        try:
            return await self.ownership.weigh(cid, self.holdings.paths(cid)), ""
        except AdapterError as error:
            return None, str(error)

    async def listing(self) -> list[AdapterInfo]:
        """List every adapter held or heard of, with how many peers provide it."""
        return await self._describe_all(dict(self.known) | dict(self.holdings.held()))

    def offered(self) -> tuple[OfferedInfo, ...]:
        """List adapters that are held or heard of and not withdrawn, the newest first, at most
        MAX_RESULTS; asks nobody.
        """
        found = dict(self.known) | dict(self.holdings.held())
        newest = sorted(found, key=lambda cid: -found[cid].created_at)
        stay = [cid for cid in newest if not self.known.is_withdrawn(found[cid])]
        return tuple(
            OfferedInfo(
                found[cid].name,
                peer_id_of(found[cid].creator),
                found[cid].licence,
                self.known.about(cid).description,
            )
            for cid in stay[:MAX_RESULTS]
        )

    async def search(self, wanted: SearchRequest) -> list[AdapterInfo]:
        """List the adapters that match, those that match best first; none that is withdrawn."""
        manifests = dict(self.known) | dict(self.holdings.held())
        ranks = {
            cid: found
            for cid, manifest in manifests.items()
            if not self.known.is_withdrawn(manifest)
            and (found := rank(wanted, manifest, self.known.about(cid))) is not None
        }
        best = sorted(ranks, key=lambda cid: (-ranks[cid], -manifests[cid].created_at))
        return await self._describe_all({cid: manifests[cid] for cid in best[:MAX_RESULTS]})

    async def versions(self, text: str) -> list[VersionInfo]:
        """List the versions of NAME or OWNER/NAME, the oldest first."""
        owner, _, name = text.rpartition("/")
        owner = owner or self.names.own_peer_id
        meant = await self.names.find(owner, name)
        return [
            VersionInfo(
                record.name,
                str(record.target) if record.target else None,
                is_meant=meant is not None and None is not record.target == meant.target,
                signed_at=record.sequence,
            )
            for record in self.publisher.versions(owner, name)
        ]

    async def _describe_all(self, manifests: Mapping[Cid, Manifest]) -> list[AdapterInfo]:
        others = await self.popularity.count(list(manifests))
        return [self._describe(cid, manifest, others[cid]) for cid, manifest in manifests.items()]

    def _describe(self, cid: Cid, manifest: Manifest, num_others: int) -> AdapterInfo:
        is_held = self.holdings.find(cid) is not None
        about = self.known.about(cid)
        held: AdapterState = "ready" if self.holdings.computes else "held"
        return AdapterInfo(
            manifest.name,
            str(cid),
            peer_id_of(manifest.creator),
            held if is_held else "known",
            size_bytes=size_of(manifest),
            licence=manifest.licence,
            providers=num_others + is_held,
            version=manifest.adapter_version,
            description=about.description,
            languages=about.languages,
            base=manifest.base.hex(),
        )


def _read_parents(told: PushTold) -> tuple[bytes, ...]:
    """Return the digests of the weights that an adapter was made of. Raises BadRequest."""
    try:
        parents = tuple(map(from_hex, told.parents))
    except ValueError as error:
        raise BadRequest(f"a parent is the digest of its weights: {error}") from error
    if any(len(parent) != 32 for parent in parents) or len(parents) > MAX_REGISTERED_PARENTS:
        raise BadRequest(
            f"at most {MAX_REGISTERED_PARENTS} parents are named, each by the 64 hex digits of"
            " its weights, which `lorikeet show` tells"
        )
    return parents


def _registered(registration: Registration, manifest: Manifest) -> RegisteredInfo:
    return RegisteredInfo(
        to_hex(registration.creator),
        to_hex(registration.owner),
        block=registration.first_block,
        at=registration.committed_at,
        royalty_bps=registration.royalty_bps,
        manifest=to_hex(registration.manifest),
        parents=tuple(map(to_hex, registration.parents)),
        is_theirs=registration.allows(manifest.creator_address),
    )


def names_of(known: Known, holdings: Holdings) -> list[str]:
    """List the names of every adapter held or heard of, to suggest for a name that was not
    found.
    """
    return [manifest.name for _, manifest in (*known, *holdings.held())]


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
