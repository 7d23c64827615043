"""Tries a stranger's grammar in a process of its own, because some take minutes to refuse and
cannot be interrupted.

`python -m engine.grammar_check` reads a grammar a line (a JSON string in llguidance's form) and
answers each with one: a JSON string, empty for a good one. Knows no token and no request.
"""

from __future__ import annotations

import ctypes
import json
import resource
import selectors
import signal
import subprocess
import sys
from pathlib import Path

import llguidance

from .errors import InvalidRequest

CHECK_DEADLINE_S = 1.0
START_DEADLINE_S = 20.0
MAX_MEMORY_BYTES = 2 << 30
LIMITS = llguidance.LLParserLimits(
    max_items_in_row=1000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
)
"""llguidance's own bounds: about 20 ms to begin with and 8 ms a token, for all but a few grammars.
"""


class Checker:
    """Asks a child process to try grammars.

    There is one child, started when it is first needed and again after it had to be killed.
    """

    def __init__(self, deadline_s: float = CHECK_DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._child: subprocess.Popen[bytes] | None = None

    def check(self, grammar: str) -> None:
        """Raise InvalidRequest when llguidance refuses `grammar` or takes longer than the
        deadline.
        """
        child = self._started()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(grammar).encode() + b"\n")
            child.stdin.flush()
        except OSError as error:
            self.close()
            raise InvalidRequest(f"grammar could not be checked ({error}); try again") from error
        answer = _read_line(child, self._deadline_s)
        if not answer:
            self.close()
            raise InvalidRequest(
                f"grammar is too complex: it could not be prepared within {self._deadline_s:g} s;"
                " simplify it"
            )
        reason = json.loads(answer)
        if reason:
            raise InvalidRequest(f"grammar is refused: {reason}")

    def close(self) -> None:
        """End the child, whatever it does."""
        child = self._child
        self._child = None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            folder = Path(__file__).resolve().parent.parent
            self._child = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=folder,
            )
            if _read_line(self._child, START_DEADLINE_S) != b'""\n':
                self.close()
                raise InvalidRequest(
                    "grammar could not be checked: the process that does it did not start; try"
                    " again"
                )
        return self._child


def _read_line(child: subprocess.Popen[bytes], deadline_s: float) -> bytes:
    """Return the child's next line, or nothing when it ended or the deadline passed.

    The child answers with one short line at a time.
    """
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        return child.stdout.readline() if selector.select(deadline_s) else b""


def main() -> None:
    """Answer the parent's grammars until it closes the pipe."""
    ctypes.CDLL(None).prctl(
        1, signal.SIGKILL
    )  # PR_SET_PDEATHSIG: an engine that was killed leaves nobody behind
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    print(json.dumps(""), flush=True)
    for line in sys.stdin:
        message = llguidance.LLMatcher.validate_grammar(json.loads(line), limits=LIMITS)
        reason = "" if message.startswith("WARNING") else message.strip().partition("\n")[0][:300]
        print(json.dumps(reason), flush=True)


if __name__ == "__main__":
    main()
