"""Tells which tokens may follow so that an answer matches a JSON schema or an expression.

llguidance decides; this bounds it and names its errors. Chooses no token.

request with a grammar ──▶ Grammars' thread: checked in another process, compiled ──▶ GrammarDone
──▶ engine: the request is queued
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import llguidance
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray

from .digits import Digits, Spelling
from .errors import InvalidRequest
from .grammar_check import LIMITS, Checker
from .messages import Grammar, Vocabulary

MAX_GRAMMAR_BYTES = 32 << 10
MAX_TOKENIZER_BYTES = 64 << 20
WHITE_SPACE = r"[ \t]{0,2}(\r?\n[ \t]{0,16})?"
"""Between the words of JSON: at most 20 letters of it, one end of a line among them."""
MASK_DEADLINE_S = 0.25
"""More of the processor for one token, and the request fails: others wait meanwhile."""


class Matcher:
    """Follows one answer through its grammar."""

    def __init__(
        self, matcher: llguidance.LLMatcher, vocab_size: int, digits: Digits | None
    ) -> None:
        self._matcher = matcher
        self._digits = digits
        self._bits = llguidance.numpy.allocate_token_bitmask(1, vocab_size)

    @property
    def is_over(self) -> bool:
        """Return whether nothing more may follow.

        The grammar is fulfilled, or a token was accepted that it does not allow.
        """
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.int32]:
        """Return one bit for each id that may follow, packed, lowest first; valid until the next
        call.

        Raises InvalidRequest when that is too complex.
        """
        started = time.thread_time()  # a machine that is busy is not the grammar's fault
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits)
        if self._matcher.is_error():
            raise InvalidRequest(
                f"the grammar cannot be followed further: {_first_line(self._matcher)}; simplify it"
            )
        if time.thread_time() - started > MASK_DEADLINE_S:
            raise InvalidRequest(
                f"the grammar is too complex: one token took longer than {MASK_DEADLINE_S} s;"
                " simplify it"
            )
        allowed: NDArray[np.int32] = self._bits[0]
        if self._digits is not None:
            self._digits.bound(allowed)
        return allowed

    def accept(self, token: int) -> None:
        """Go on with `token`; one that is not allowed ends the match."""
        self._matcher.consume_token(token)
        if self._digits is not None:
            self._digits.accept(token)


@dataclass(frozen=True)
class GrammarJob:
    """A request's grammar."""

    request_id: int
    grammar: Grammar


@dataclass(frozen=True)
class GrammarDone:
    """The outcome of a job."""

    job: GrammarJob
    outcome: Matcher | InvalidRequest


class Grammars:
    """One thread that compiles for one vocabulary; `done` is called on that thread.

    The daemon says where the vocabulary is described.
    """

    def __init__(self, vocab_size: int, done: Callable[[GrammarDone], None]) -> None:
        self._vocab_size = vocab_size
        self._done = done
        self._jobs: SimpleQueue[GrammarJob | Vocabulary | None] = SimpleQueue()
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._spelling: Spelling | None = None
        self._reason = "this engine was not told what its tokens spell; send a Vocabulary first"
        self._checker = Checker()
        self._thread = threading.Thread(target=self._run, name="grammar-compiler", daemon=True)
        self._thread.start()

    def submit(self, job: GrammarJob | Vocabulary) -> None:
        """Queue a job, or the vocabulary of the jobs that follow."""
        self._jobs.put(job)

    def close(self) -> None:
        """End after what is queued, and wait for it."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, Vocabulary):
                self._learn(job)
            else:
                self._done(GrammarDone(job, self._attempt(job.grammar)))
        self._checker.close()

    def _learn(self, vocabulary: Vocabulary) -> None:
        try:
            described = _read(Path(vocabulary.tokenizer_path))
            self._tokenizer = llguidance.LLTokenizer(
                described, n_vocab=self._vocab_size, eos_token=vocabulary.stop_ids
            )
            self._spelling = None  # read when it is first needed
        except (OSError, ValueError) as error:
            self._reason = f"the base's tokenizer cannot be used for grammars: {error}"

    def _attempt(self, grammar: Grammar) -> Matcher | InvalidRequest:
        try:
            return self._compile(grammar)
        except InvalidRequest as error:
            return error
        except Exception as error:  # a stranger's grammar found a bug: only its request is lost
            return InvalidRequest(
                f"grammar could not be prepared ({type(error).__name__}: {error})"
            )

    def _compile(self, grammar: Grammar) -> Matcher:
        if self._tokenizer is None:
            raise InvalidRequest(f"grammar: {self._reason}")
        source = source_of(grammar)
        self._checker.check(source)
        matcher = llguidance.LLMatcher(self._tokenizer, source, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise InvalidRequest(f"grammar is refused: {_first_line(matcher)}")
        return Matcher(matcher, self._vocab_size, self._count_digits(grammar, self._tokenizer))

    def _count_digits(self, grammar: Grammar, tokenizer: llguidance.LLTokenizer) -> Digits | None:
        """Numbers end in time; an expression says itself how many digits it takes."""
        if grammar.kind == "regex":
            return None
        if self._spelling is None:
            self._spelling = Spelling.of(
                self._vocab_size, lambda token: tokenizer.decode_bytes([token])
            )
        return Digits(self._spelling)


def check_grammar(grammar: Grammar) -> None:
    """Raise InvalidRequest for a grammar that can be refused without compiling it."""
    if grammar.kind not in ("json_schema", "regex", "lark"):
        raise InvalidRequest(
            f"grammar has kind {grammar.kind!r}; it must be json_schema, regex or lark"
        )
    if len(grammar.text.encode()) > MAX_GRAMMAR_BYTES:
        raise InvalidRequest(
            f"grammar has {len(grammar.text.encode())} bytes; the limit is {MAX_GRAMMAR_BYTES}"
        )


def source_of(grammar: Grammar) -> str:
    """Return a grammar in llguidance's own form. Raises InvalidRequest."""
    if grammar.kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(grammar.text)
    if grammar.kind == "lark":
        return llguidance.LLMatcher.grammar_from_lark(grammar.text)
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(
            grammar.text, overrides={"whitespace_pattern": WHITE_SPACE}
        )
    except ValueError as error:
        raise InvalidRequest(f"grammar is refused: the json_schema is not JSON: {error}") from error


def _read(path: Path) -> str:
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise ValueError(f"{path} is larger than {MAX_TOKENIZER_BYTES} bytes")
    return path.read_text()


def _first_line(matcher: llguidance.LLMatcher) -> str:
    return matcher.get_error().strip().partition("\n")[0][:300]
