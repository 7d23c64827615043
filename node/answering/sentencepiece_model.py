"""Reads a SentencePiece model file (`tokenizer.model`) and builds the vocabulary that it describes.

The file is a protocol buffer of a stranger's: its size, its pieces and every length in it are
bounded before they are taken. Decides how text is normalised and cut as the file says it; knows no
base.

Source of the fields' numbers: sentencepiece_model.proto of google/sentencepiece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

SPACE = "\u2581"
"""SentencePiece's letter for a space."""
MAX_MODEL_BYTES = 64 << 20
MAX_PIECES = 1 << 20
UNIGRAM = 1
BPE = 2
UNKNOWN = 2
CONTROL = 3
USER_DEFINED = 4


class BadModelError(ValueError):
    """A file that is no SentencePiece model, or one that is not read; the message says why."""


@dataclass(frozen=True)
class Normalisation:
    """What is done to a text before it is cut.

    charsmap: SentencePiece's compiled table of replacements. prefix: texts begin with a space.
    collapses: spaces around a text are taken off, and several in it are one.
    """

    charsmap: bytes = b""
    prefix: bool = True
    collapses: bool = True


@dataclass(frozen=True)
class Model:
    """A model as its file has it: pieces with their scores and kinds, and how they are used.

    bos, eos, unk: ids; None where there is no such piece.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    algorithm: int = UNIGRAM
    byte_fallback: bool = False
    unk: int | None = 0
    bos: int | None = 1
    eos: int | None = 2
    normalisation: Normalisation = field(default_factory=Normalisation)


# --- the file ---


def parse_model(raw: bytes) -> Model:
    """Read a model file. Raises BadModelError."""
    if len(raw) > MAX_MODEL_BYTES:
        raise BadModelError(f"it has {len(raw)} bytes; at most {MAX_MODEL_BYTES} are read")
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(raw):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value))
            if len(pieces) > MAX_PIECES:
                raise BadModelError(f"it has more than {MAX_PIECES} pieces")
        elif number == 2 and isinstance(value, bytes):
            trainer.update(_fields(value))
        elif number == 3 and isinstance(value, bytes):
            normalizer.update(_fields(value))
    if not pieces:
        raise BadModelError("it has no pieces")
    algorithm = trainer.get(3, UNIGRAM)
    if algorithm not in (UNIGRAM, BPE):
        raise BadModelError("its model is neither Unigram nor BPE")
    charsmap = normalizer.get(2, b"")
    unk, bos, eos = (
        _id(trainer.get(number, default), len(pieces))
        for number, default in ((40, 0), (41, 1), (42, 2))
    )
    texts, scores, kinds = zip(*pieces, strict=True)
    return Model(
        texts,
        scores,
        kinds,
        algorithm=algorithm,
        byte_fallback=bool(trainer.get(35, 0)),
        unk=unk,
        bos=bos,
        eos=eos,
        normalisation=Normalisation(
            charsmap if isinstance(charsmap, bytes) else b"",
            bool(normalizer.get(3, 1)),
            bool(normalizer.get(4, 1)),
        ),
    )


def _piece(raw: bytes) -> tuple[str, float, int]:
    found: dict[int, Any] = dict(_fields(raw))
    text = found.get(1, b"")
    score = found.get(2, 0.0)
    kind = found.get(3, 1)
    if not isinstance(text, bytes) or not isinstance(score, float) or type(kind) is not int:
        raise BadModelError("one of its pieces has no text, score and kind")
    try:
        return text.decode(), score, kind
    except UnicodeDecodeError as error:
        raise BadModelError("one of its pieces is no text") from error


def _id(value: Any, count: int) -> int | None:
    """Return an id; such numbers are signed, and -1 means that there is none."""
    return value if type(value) is int and 0 <= value < count else None


def _fields(raw: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Yield number and value of each field of a message. Raises BadModelError."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value: int | float | bytes
            value, at = _varint(raw, at)
        elif wire == 2:
            size, at = _varint(raw, at)
            value, at = _take(raw, at, size)
        elif wire == 5:
            four, at = _take(raw, at, 4)
            value = struct.unpack("<f", four)[0]
        elif wire == 1:
            value, at = _take(raw, at, 8)
        else:
            raise BadModelError("it is no protocol buffer")
        yield number, value


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise BadModelError("it is truncated")
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise BadModelError("it is no protocol buffer")


def _take(raw: bytes, at: int, size: int) -> tuple[bytes, int]:
    if size > len(raw) - at:
        raise BadModelError("it is truncated")
    return raw[at : at + size], at + size


# --- the vocabulary ---


def build_tokenizer(model: Model, *, prefix_everywhere: bool = False) -> Tokenizer:
    """Build the vocabulary of a model.

    prefix_everywhere: texts behind control tokens begin with a space as well (`legacy` in
    transformers). Raises BadModelError.
    """
    tokenizer = Tokenizer(_algorithm(model))
    rules = model.normalisation
    steps: list[Any] = [normalizers.Precompiled(rules.charsmap)] if rules.charsmap else []
    if rules.collapses:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    # what was taken off a text's beginning makes what is left no beginning to the library
    everywhere = prefix_everywhere or rules.collapses
    scheme = "never" if not rules.prefix else "always" if everywhere else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
    strip = [decoders.Strip(" ", 1, 0)] if rules.prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_tokens(
        [
            AddedToken(piece, special=kind != USER_DEFINED, normalized=False)
            for piece, kind in zip(model.pieces, model.kinds, strict=True)
            if piece and kind in (CONTROL, USER_DEFINED)
        ]
    )
    return tokenizer


def _algorithm(model: Model) -> Any:
    vocabulary = {piece: at for at, piece in enumerate(model.pieces)}
    if model.algorithm == BPE:
        return models.BPE(
            vocab=vocabulary,
            merges=merges_of(vocabulary, model.scores),
            unk_token=None if model.unk is None else model.pieces[model.unk],
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
        )
    if model.unk is None:
        raise BadModelError("it is Unigram and has no piece for what it does not know")
    return models.Unigram(
        list(zip(model.pieces, _used(model), strict=True)), model.unk, model.byte_fallback
    )


def _used(model: Model) -> Sequence[float]:
    """Return the scores by which pieces are chosen; those that are no text are never chosen."""
    ordinary = [s for s, kind in zip(model.scores, model.kinds, strict=True) if kind == 1]
    least = min(ordinary, default=0.0) - 1e3
    never: Mapping[int, float] = dict.fromkeys((CONTROL, 5, 6), least)
    return [never.get(kind, score) for score, kind in zip(model.scores, model.kinds, strict=True)]


def merges_of(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return every pair of tokens that makes a token, the best scored first."""
    found = []
    for token, at in vocabulary.items():
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        found += [(scores[at], pair) for pair in known]
    found.sort(key=lambda each: (each[0], len(each[1][0]), len(each[1][1])), reverse=True)
    return [pair for _, pair in found]
