"""What schemathesis checks besides its own; loaded by it, in its own environment."""

from __future__ import annotations

import schemathesis  # type: ignore[import-not-found, unused-ignore]
from schemathesis import GenerationMode  # type: ignore[import-not-found, unused-ignore]

MADE = ("key", "folder")
NOWHERE = "/dev/null"
FORM = ("the body is not what this route takes", "the body is not JSON")


@schemathesis.check
def a_body_of_the_schema_is_read(ctx, response, case):  # type: ignore[no-untyped-def]
    """A body that its schema allows is never refused for its form, only for what it says."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if response.status_code == 400 and any(form in response.text for form in FORM):
        raise AssertionError(f"refused for its form: {response.text[:300]}")


@schemathesis.hook
def map_body(ctx, body):  # type: ignore[no-untyped-def]
    """A file that a route would make on this machine lies where none can be made."""
    if isinstance(body, dict):
        made = {name: NOWHERE + body[name] for name in MADE if _is_path(body.get(name))}
        return {**body, **made}
    return body


def _is_path(value):  # type: ignore[no-untyped-def]
    return isinstance(value, str) and value.startswith("/")
