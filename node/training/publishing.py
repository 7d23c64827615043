"""Publishes a finished run: writes its adapter's folder as `push` takes one, with all that version
2 of a manifest says, and has it pushed.

    runs/NAME/offer/     adapter, recipe.toml, evaluation.msgpack, card.md, attribution.tokens,
                         background.tokens, contributors.msgpack, lorikeet.toml

Decides what may be published: a run that is finished and whole, that learnt something, from texts
that may still be learnt from. Signs and announces nothing itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import trio

from factory.errors import FactoryError
from factory.training.folder import Run, adapter_digest, read_run
from factory.training.journal import read_status
from factory.training.judging import FILE as EVALUATED
from factory.training.judging import Evaluation, pack
from factory.training.recipe import FILE as RECIPE
from factory.training.rows import Made, Rows
from proofs.attribution.blend import WHOLE_BPS
from proofs.origin import BACKGROUND_FILE, TOKENS_FILE

from ..api.datanets import Datanets, Progress, Tell
from ..api.training import PaidInfo, PublishedInfo, PublishSaid
from ..bases.loading import Base
from ..catalogue.about import About
from ..catalogue.leaving_out import write_toml
from ..catalogue.origins import CARD_FILE, CONTRIBUTORS_FILE, EVALUATION_FILE, RECIPE_FILE
from ..catalogue.packaging import CONFIG_FILE, DESCRIPTION_FILE, WEIGHTS_FILE
from ..errors import BadRequest
from .background import Backgrounds
from .card import Told, write_card
from .dividing import Division, division_of
from .encoding import BaseEncoder
from .learnt import MAX_TEXT, Learnt, learnt_of
from .making import check_base, check_versions, documents_of, rows_of, shared
from .network import Network
from .runs import ADAPTER, Runs
from .texts import Gone, Source, bring

OFFER = "offer"
MAX_DESCRIPTION = 1000
NAMED = 5


@dataclass(frozen=True)
class Finished:
    """A finished run, read whole."""

    run: Run
    evaluation: Evaluation


class Publishing:
    """What one daemon publishes of its runs."""

    def __init__(
        self,
        runs: Runs,
        datanets: Datanets,
        base: Callable[[], Base],
        backgrounds: Backgrounds,
    ) -> None:
        self._runs = runs
        self._datanets = datanets
        self._base = base
        self._backgrounds = backgrounds
        self._busy: set[str] = set()

    async def publish(
        self, name: str, said: PublishSaid, network: Network, tell: Tell
    ) -> PublishedInfo:
        """Publish a run, or with `dry_run` only write its folder. Raises NodeError."""
        folder = self._runs.path(name)
        with self._alone(name), scratch_in(self._runs.folder, f"{OFFER}.{name}") as scratch:
            tell(Progress("run", 0, 0))
            found = await trio.to_thread.run_sync(read_finished, name, folder, said.anyway)
            sources = await bring(self._datanets, found.run.recipe.datanets, scratch, tell)
            check_texts(name, found.run, sources, said.anyway)
            info = await self._offer(found, sources, said, network, tell)
            if said.dry_run:
                return info
            tell(Progress("publish", 0, 0))
            adapter = await network.push(Path(info.folder), Path(said.key) if said.key else None)
        return replace(
            info,
            name=adapter.name,
            version=adapter.version,
            cid=adapter.cid,
            creator=adapter.creator,
            size_bytes=adapter.size_bytes,
        )

    async def _offer(
        self,
        found: Finished,
        sources: Sequence[Source],
        said: PublishSaid,
        network: Network,
        tell: Tell,
    ) -> PublishedInfo:
        """Write the folder that is published."""
        base = self._base()
        run = found.run
        tell(Progress("rows", 0, 0))
        learnt = await trio.to_thread.run_sync(check_rows, run, sources, base)
        division = await trio.to_thread.run_sync(division_of, run.folder, run.about, learnt)
        background = division.background
        if background is None:
            background = await self._backgrounds.find(base, network.engine, tell)
        told = _told(said, run, sources)
        card = write_card(
            told,
            run.recipe,
            sources,
            learnt,
            division,
            evaluation=found.evaluation,
            base=base.name,
            threads=run.about.threads,
        )
        about = _about(told, said, sources, learnt, division)
        files = {
            CARD_FILE: card.encode(),
            EVALUATION_FILE: pack(found.evaluation),
            TOKENS_FILE: learnt.tokens,
            BACKGROUND_FILE: background,
            CONTRIBUTORS_FILE: learnt.listing,
            DESCRIPTION_FILE: write_toml(about).encode(),
        }
        offer = run.folder / OFFER
        await trio.to_thread.run_sync(write_offer, run.folder, offer, files)
        return _info(told, found.evaluation, learnt, division, offer)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        if name in self._busy:
            raise BadRequest(
                f"the run {name} is being published already; wait for that, then look with"
                " `lorikeet versions`"
            )
        self._busy.add(name)
        try:
            yield
        finally:
            self._busy.discard(name)


@contextmanager
def scratch_in(folder: Path, what: str) -> Iterator[Path]:
    """Give an empty folder beside the runs, gone with the block."""
    scratch = folder / f".{what}.{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def clear_scratch(folder: Path) -> None:
    """Drop what a daemon left beside the runs that was killed: texts lie there in plain."""
    for path in folder.glob(".*.*"):
        if path.suffix[1:].isdecimal():
            shutil.rmtree(path, ignore_errors=True)


# ── what may be published ──


def read_finished(name: str, folder: Path, anyway: bool) -> Finished:
    """Read a run that may be published as far as it can tell itself. Blocks; raises BadRequest."""
    again = (
        f"have its process write it again from the last checkpoint: python -m factory.training"
        f" {folder}"
    )
    try:
        status = read_status(folder)
        run = read_run(folder)
    except FactoryError as error:
        raise BadRequest(f"the run {name} cannot be read: {error}") from error
    if status.state != "finished":
        mend = f"let it go on: lorikeet train resume {name}"
        if status.state == "working":
            mend = f"wait for it: lorikeet train watch {name}, or lorikeet train stop {name}"
        if status.state == "failed":
            mend = f"{status.why}; then train anew: lorikeet train new {name}-2 --from {name}"
        raise BadRequest(
            f"the run {name} is {status.state}, and only a finished one is published; {mend}"
        )
    try:
        digest = adapter_digest(folder)
    except FactoryError as error:
        raise BadRequest(f"the adapter of {name} is not there ({error}); {again}") from error
    if digest != status.adapter:
        raise BadRequest(f"the adapter of {name} is not what the run made: damaged; {again}")
    try:
        evaluation = msgspec.json.decode((folder / EVALUATED).read_bytes(), type=Evaluation)
    except (OSError, msgspec.DecodeError) as error:
        raise BadRequest(
            f"nobody knows what {name} is worth: {EVALUATED} cannot be read ({error}); {again}"
        ) from error
    if not evaluation.is_good and not anyway:
        raise BadRequest(
            f"{name} should not be published: {evaluation.verdict}. --anyway publishes it all the"
            " same, and its card says this"
        )
    return Finished(run, evaluation)


def check_texts(name: str, run: Run, sources: Sequence[Source], anyway: bool) -> None:
    """Raise BadRequest where a run learnt from what nobody may learn from any more, or nobody can
    say.
    """
    old = [source.about.name for source in sources if not source.is_newest]
    if old and not anyway:
        raise BadRequest(
            f"the newest word of the datanet {', '.join(old)} is not to be had, so a withdrawal"
            " may be unknown here; try again when another member's node runs, or go by what is"
            " known here with --anyway"
        )
    known = {digest: one for source in sources for digest, one in source.gone.items()}
    places = [n for n, digest in enumerate(run.about.contributions) if digest in known]
    if not places:
        return
    gone = [known[run.about.contributions[place]] for place in places]
    count = int(np.isin(run.rows.contributions, places).sum())
    looked = int(np.isin(run.held_out.contributions, places).sum())
    of = f"{count} of {len(run.rows)} rows" + (f", and {looked} held out" if looked else "")
    raise BadRequest(
        f"{name} learnt from what nobody may learn from any more: {_named(gone)}; retrain without"
        f" {of}: lorikeet train new {name}-2 --from {name}, start that, and publish it with --as"
        f" {run.recipe.name}"
    )


def check_rows(run: Run, sources: Sequence[Source], base: Base) -> Learnt:
    """Return what a run learnt, by whom; raise BadRequest where its rows are not what its recipe
    makes of these texts. Blocks.
    """
    check_base(run.recipe, base)
    check_versions(run.recipe, sources)
    encoder = BaseEncoder(base.tokenizer)
    lines = [line for source in sources for line in source.lines]
    made = rows_of(run.recipe, documents_of(lines), encoder)
    if not are_same(run, made):
        raise BadRequest(
            f"the rows of {run.recipe.name} are not what its recipe makes of these texts: the"
            f" run's folder was changed ({run.folder}); train it again by its recipe"
        )
    return learnt_of(sources, encoder, base.identity.tokenizer_hash)


def are_same(run: Run, made: Made) -> bool:
    """Whether a run learns these rows and looks at those."""
    pairs = ((run.rows, made.learnt), (run.held_out, made.held_out))
    return all(_arrays_equal(one, other) for one, other in pairs)


def _arrays_equal(one: Rows, other: Rows) -> bool:
    return all(np.array_equal(mine, vars(other)[name]) for name, mine in vars(one).items())


def _named(gone: Sequence[Gone]) -> str:
    told = [f"“{one.title}” by {one.name} ({one.contribution[:12]}), {one.why}" for one in gone]
    more = [f"and {len(told) - NAMED} more"] if len(told) > NAMED else []
    return "; ".join([*told[:NAMED], *more])


# ── the folder ──


def write_offer(run: Path, offer: Path, files: dict[str, bytes]) -> None:
    """Write the folder that is pushed, whole or not at all. Blocks; raises BadRequest."""
    draft = offer.with_name(f".{offer.name}")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(run / ADAPTER / file, draft / file)
        shutil.copyfile(run / RECIPE, draft / RECIPE_FILE)
        for name, data in files.items():
            (draft / name).write_bytes(data)
        shutil.rmtree(offer, ignore_errors=True)
        draft.rename(offer)
    except OSError as error:
        raise BadRequest(f"{offer} cannot be written: {error}; nothing is published") from error


def _told(said: PublishSaid, run: Run, sources: Sequence[Source]) -> Told:
    """Return what is said of an adapter: by the creator, else by the datanets."""
    spoken = sorted({line.language for source in sources for line in source.lines})
    purposes = "; ".join(
        source.about.name + (f" ({source.purpose})" if source.purpose else "") for source in sources
    )
    return Told(
        said.name or run.recipe.name,
        (said.description or f"Learnt from the texts of {purposes}.")[:MAX_DESCRIPTION],
        said.licence or shared([run.about.licence], MAX_TEXT),
        said.languages or tuple(one for one in spoken if _is_language(one))[:16],
    )


def _is_language(text: str) -> bool:
    try:
        msgspec.convert({"languages": [text]}, About)
    except msgspec.ValidationError:
        return False
    return bool(text)


def _about(
    told: Told, said: PublishSaid, sources: Sequence[Source], learnt: Learnt, division: Division
) -> dict[str, Any]:
    """Return the lorikeet.toml of a folder."""
    datanets = [source.about for source in sources]
    named = (f"version {one.version} of datanet {one.name}" for one in datanets)
    return {
        "name": told.name,
        **({"version": said.version} if said.version else {}),
        "licence": told.licence,
        "source": shared(named, MAX_TEXT),
        "description": told.description,
        "languages": list(told.languages),
        "attribution": division.attribution,
        "contributors": [
            {
                "address": giver.pay_to,
                "name": giver.name[:MAX_TEXT],
                "source": giver.source,
                "licence": giver.licence,
                "weight": weight,
            }
            for giver, weight in zip(learnt.givers, division.weights, strict=True)
        ],
        "datanets": [
            {"id": one.datanet, "version": one.version, "digest": one.digest} for one in datanets
        ],
    }


def _info(
    told: Told, evaluation: Evaluation, learnt: Learnt, division: Division, offer: Path
) -> PublishedInfo:
    return PublishedInfo(
        name=told.name,
        folder=str(offer),
        licence=told.licence,
        verdict=evaluation.verdict,
        is_good=evaluation.is_good,
        size_bytes=sum(path.stat().st_size for path in offer.iterdir()),
        paid=tuple(
            PaidInfo(giver.name, giver.pay_to, giver.tokens, giver.owned, weight / WHOLE_BPS)
            for giver, weight in zip(learnt.givers, division.weights, strict=True)
        ),
        answers=division.answers,
    )
