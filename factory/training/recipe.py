"""A recipe: what an adapter is made of and how, as one TOML file.

    recipe = 1
    name = "dhaka-law"
    base = "b179c952…"                            # the base's id
    datanets = [{ id = "3f…", version = 7 }]
    [adapter]
    kind = "lora"
    [train]
    seed = 20260

Six fields matter (name, base, datanets, adapter.kind, adapter.rank, train.epochs); every other has
a default, and "auto" follows the amount of text and the base (`plan.py`). The file that a run keeps
has each value resolved; its sha-256 stands in the manifest, and the same bytes make the same
adapter. Reads and writes the text; knows no file of a datanet and no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from .errors import BadRecipe

FILE = "recipe.toml"
MAX_RECIPE_BYTES = 64 * 1024
MAX_DATANETS = 16
AUTO: Literal["auto"] = "auto"
ALL_LINEAR: Literal["all-linear"] = "all-linear"
PATH = re.compile(r" - at `\$\.?([^`]*)`")
TABLE = re.compile(r"\[{1,2}([A-Za-z0-9_.-]+)\]{1,2}\s*(#.*)?")
KEY = re.compile(r"([A-Za-z0-9_.-]+)\s*=")

Auto = Literal["auto"]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Unknown = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a recipe."""


class Datanet(Part, frozen=True):
    """A version of a datanet; `digest` is the version's, and empty until it is looked up."""

    id: Digest
    version: Annotated[int, Meta(ge=1, lt=1 << 32)]
    digest: Unknown = ""


class RowsPart(Part, frozen=True):
    """How texts become rows of tokens."""

    window: Annotated[int, Meta(ge=16, le=8192)] = 256
    chat: Annotated[float, Meta(ge=0, le=0.9)] = 0.33


class AdapterPart(Part, frozen=True):
    """What kind of adapter it is."""

    kind: Literal["lora", "rslora", "dora", "qlora"] = "lora"
    rank: Annotated[int, Meta(ge=1, le=256)] | Auto = AUTO
    alpha: Annotated[int, Meta(ge=1, le=1024)] | Auto = AUTO
    targets: (
        Literal["all-linear"]
        | Annotated[
            tuple[Annotated[str, Meta(min_length=1, max_length=100)], ...],
            Meta(min_length=1, max_length=32),
        ]
    ) = ALL_LINEAR


class TrainPart(Part, frozen=True):
    """How it is trained."""

    epochs: Annotated[int, Meta(ge=1, le=1000)] | Auto = AUTO
    steps: Annotated[int, Meta(ge=1, le=100_000)] = 2000
    batch_tokens: Annotated[int, Meta(ge=16, le=1 << 20)] = 1536
    learning_rate: Annotated[float, Meta(gt=0, le=1)] | Auto = AUTO
    warmup: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    clip: Annotated[float, Meta(gt=0)] = 1.0
    seed: Annotated[int, Meta(ge=0, lt=1 << 31)] = 20260


class StopPart(Part, frozen=True):
    """When it has learnt enough."""

    every: Annotated[int, Meta(ge=1, le=100_000)] | Auto = AUTO
    patience: Annotated[int, Meta(ge=1, le=1000)] = 3
    least: Annotated[float, Meta(ge=0, lt=1)] = 0.002


class InfluencePart(Part, frozen=True):
    """How it is measured whose text mattered."""

    method: Literal["leave-out", "none"] = "leave-out"
    answers: Annotated[int, Meta(ge=8, le=512)] = 64
    halves: Annotated[int, Meta(ge=0, le=64)] = 12
    minutes: Annotated[int, Meta(ge=1, le=100_000)] = 60


class EvaluatePart(Part, frozen=True):
    """What it is tried on when it is done."""

    prompts: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=2000)], ...], Meta(max_length=16)
    ] = ()
    tokens: Annotated[int, Meta(ge=8, le=512)] = 48


class Recipe(Part, frozen=True):
    """A whole recipe. `tokenizer` and `template` are hashes of the base's, written in when rows are
    made.
    """

    recipe: Literal[1]
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    base: Digest
    datanets: Annotated[tuple[Datanet, ...], Meta(min_length=1, max_length=MAX_DATANETS)]
    tokenizer: Unknown = ""
    template: Unknown = ""
    rows: RowsPart = RowsPart()
    adapter: AdapterPart = AdapterPart()
    train: TrainPart = TrainPart()
    stop: StopPart = StopPart()
    evaluate: EvaluatePart = EvaluatePart()
    influence: InfluencePart = InfluencePart()

    @property
    def is_resolved(self) -> bool:
        """Whether nothing is left to be decided."""
        said = (
            self.adapter.rank,
            self.adapter.alpha,
            self.train.epochs,
            self.train.learning_rate,
            self.stop.every,
            *((each.digest or AUTO) for each in self.datanets),
            self.tokenizer or AUTO,
        )
        return AUTO not in said


EXPLAINED = {
    "recipe": "the form of this file: 1",
    "name": "what the adapter is called: small letters, digits and . _ - between them, at most 63",
    "base": "the base's id, 64 hexadecimal digits; `lorikeet base` shows it",
    "datanets": "the datanets and which version of each, as { id = DIGEST, version = NUMBER }",
    "tokenizer": "the hash of the base's tokenizer, written in when rows are made; leave it out",
    "template": "the hash of the base's chat template, written in when rows are made; leave it out",
    "rows.window": "tokens in a row, 16 to 8192; what is further apart is not learnt together",
    "rows.chat": "the part of rows in which the assistant answers a title with its text, 0 to 0.9",
    "adapter.kind": "lora, rslora (for high ranks), dora (slower), qlora (a base in 4 bits; CUDA)",
    "adapter.rank": "how much it can hold, 1 to 256, or auto: 4, 8, 16, 32 by the amount of text",
    "adapter.alpha": "how loud it speaks, 1 to 1024, or auto: twice the rank",
    "adapter.targets": "all-linear, or a list of the base's modules",
    "train.epochs": "how often each text is read, 1 to 1000, or auto: up to 4",
    "train.steps": "it ends after so many steps at the latest",
    "train.batch_tokens": "tokens of a step, at least rows.window; more is smoother and slower",
    "train.learning_rate": "how far a step goes, or auto: 0.002, 0.0004, 0.0002 by the base's size",
    "train.warmup": "the part of steps in which the rate rises, 0 to 1",
    "train.clip": "how long a step's gradient may be",
    "train.seed": "the start; the same seed makes the same adapter",
    "stop.every": "steps between two looks at the texts held out, or auto",
    "stop.patience": "after so many looks without a gain it ends",
    "stop.least": "a gain is at least this part of the loss",
    "evaluate.prompts": "questions of your own that base and adapter both answer, at most 16",
    "evaluate.tokens": "how long those answers are, 8 to 512",
    "influence.method": "leave-out: train again without each person; none: pay by words given",
    "influence.answers": "answers that are looked at, 8 to 512; 40 and more give λ",
    "influence.halves": "trainings without a random half of the people, 0 to 64",
    "influence.minutes": "after so many minutes none of these trainings begins",
}
"""What each field does, in one line."""


def read_recipe(data: bytes, where: str = FILE) -> Recipe:
    """Read a recipe and check that it can be meant; raises BadRecipe."""
    if len(data) > MAX_RECIPE_BYTES:
        raise BadRecipe(f"{where} is larger than {MAX_RECIPE_BYTES} bytes")
    try:
        text = data.decode()
        recipe = msgspec.toml.decode(data, type=Recipe)
    except msgspec.ValidationError as error:
        raise _at_field(str(error), text, where) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRecipe(f"{where} is no TOML: {error}") from error
    for field, wrong in contradictions(recipe):
        raise BadRecipe(_located(where, text, field, wrong))
    return recipe


def contradictions(recipe: Recipe) -> list[tuple[str, str]]:
    """Return what contradicts itself, as (field, what is wrong and how to mend it)."""
    found = []
    ids = [each.id for each in recipe.datanets]
    if len(set(ids)) < len(ids):
        found.append(("datanets", "one datanet stands there twice; keep one version of it"))
    if recipe.train.batch_tokens < recipe.rows.window:
        found.append(
            (
                "train.batch_tokens",
                f"a step of {recipe.train.batch_tokens} tokens has no room for a row of"
                f" {recipe.rows.window}; give it at least {recipe.rows.window}, or make"
                " rows.window smaller",
            )
        )
    one_row = recipe.train.batch_tokens < 2 * recipe.rows.window
    if recipe.rows.chat and one_row and not found:
        found.append(
            (
                "rows.chat",
                "a step of one row cannot be a part chat and a part text; set it to 0, or double"
                " train.batch_tokens",
            )
        )
    rank, alpha = recipe.adapter.rank, recipe.adapter.alpha
    if rank == AUTO and alpha != AUTO:
        found.append(("adapter.alpha", "alpha without a rank means nothing; name adapter.rank too"))
    targets = recipe.adapter.targets
    if isinstance(targets, tuple) and len(set(targets)) < len(targets):
        found.append(("adapter.targets", "one module stands there twice; keep it once"))
    return found


def render(recipe: Recipe) -> str:
    """Write a recipe as TOML, the same bytes for the same values."""
    values = asdict(recipe)
    tables = {name: asdict(part) for name, part in values.items() if isinstance(part, Part)}
    lines = [f"{name} = {_value(values[name])}" for name in values if name not in tables]
    for name, fields in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in fields.items())]
    return "\n".join(lines) + "\n"


def digest_of(text: str) -> bytes:
    """Return a recipe's digest."""
    return hashlib.sha256(text.encode()).digest()


def line_of(text: str, field: str) -> int | None:
    """Return the line in which a field such as `train.seed` is set; None: nowhere."""
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if head := TABLE.fullmatch(stripped):
            table = head[1] + "."
            if field == head[1]:
                return number
        elif key := KEY.match(stripped):
            name = table + key[1]
            if field == name or field.startswith(name + "."):
                return number
    return None


def _value(value: Any) -> str:
    if isinstance(value, Part):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in asdict(value).items()) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _at_field(error: str, text: str, where: str) -> BadRecipe:
    """Put what msgspec says into a person's words."""
    found = PATH.search(error)
    field = re.sub(r"\[[^]]*\]", "", found[1]) if found else ""
    what = PATH.sub("", error)
    missing = re.search(r"(?:unknown|required) field `([^`]+)`", what)
    if missing:
        field = f"{field}.{missing[1]}".lstrip(".")
    if "unknown field" in what:
        known = ", ".join(name for name in EXPLAINED if name.rpartition(".")[0] == _table(field))
        return BadRecipe(_located(where, text, field, f"there is no such field; there are {known}"))
    return BadRecipe(_located(where, text, field, what))


def _table(field: str) -> str:
    return field.rpartition(".")[0]


def _located(where: str, text: str, field: str, what: str) -> str:
    line = line_of(text, field)
    place = f"{where}, line {line}" if line else where
    meaning = f" ({EXPLAINED[field]})" if field in EXPLAINED else ""
    return f"{place}: {field}: {what}{meaning}"
