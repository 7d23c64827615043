"""A node that lies, stalls or answers nonsense gets nothing into vLLM's cache."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorikeet_vllm.cache import Cache
from lorikeet_vllm.manifest import (
    CONFIG_FILE,
    MAX_MANIFEST_BYTES,
    WEIGHTS_FILE,
    NotTrue,
    digest_of,
    read_manifest,
)
from lorikeet_vllm.node import Node, NodeFailed, Unknown
from p2p.cid import Cid

CONFIG = b'{"peft_type": "LORA"}'
WEIGHTS = [bytes([part]) * 1000 for part in range(3)]
Give = Callable[[str], bytes | None]


def blocks(parts: list[bytes]) -> list[tuple[bytes, int]]:
    return [(Cid.of(part).digest, len(part)) for part in parts]


def manifest(files: list[tuple[str, int, list[tuple[bytes, int]]]], version: int = 1) -> bytes:
    head = [version, "law", "1", bytes(32), bytes(32), bytes(32), "MIT", "", bytes(33), 1, []]
    return msgspec.msgpack.encode([*head, files, bytes(65)])


def manifest_two(version: int = 2) -> bytes:
    """One that says what the adapter was made of."""
    files = [(CONFIG_FILE, len(CONFIG), blocks([CONFIG])), (WEIGHTS_FILE, 3000, blocks(WEIGHTS))]
    *head, files_there, signature = msgspec.msgpack.decode(manifest(files, version))
    card = ("card.md", 1, [(bytes(32), 1)])
    return msgspec.msgpack.encode(
        [*head, [*files_there, card], [b"", [], None, [], b""], signature]
    )


GOOD = manifest(
    [(CONFIG_FILE, len(CONFIG), blocks([CONFIG])), (WEIGHTS_FILE, 3000, blocks(WEIGHTS))]
)
CID = str(Cid.of(GOOD))


def honest(path: str) -> bytes | None:
    if path.startswith("/hub/api/models/"):
        return json.dumps({"tags": ["lora", f"lorikeet:{CID}"]}).encode()
    if path.startswith("/lorikeet/v1/blocks/"):
        return GOOD
    return CONFIG if path.endswith(CONFIG_FILE) else b"".join(WEIGHTS)


@contextmanager
def node_that(give: Give) -> Iterator[Node]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = give(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("content-length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Node(f"http://127.0.0.1:{server.server_port}", timeout_s=5.0)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_honest_node_is_believed(tmp_path: Path) -> None:
    with node_that(honest) as node:
        assert node.find("law") == CID
        folder = Cache(tmp_path, 1 << 20).have(CID, node)
    assert (folder / WEIGHTS_FILE).read_bytes() == b"".join(WEIGHTS)


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/lorikeet/v1/blocks/", GOOD + b"x"),
        ("/lorikeet/v1/blocks/", b""),
        ("/lorikeet/v1/blocks/", bytes(MAX_MANIFEST_BYTES * 3)),
        (WEIGHTS_FILE, b"".join(reversed(WEIGHTS))),
        (WEIGHTS_FILE, WEIGHTS[0]),
        (CONFIG_FILE, b""),
        (CONFIG_FILE, None),
    ],
)
def test_bytes_that_are_not_what_was_asked_for_leave_nothing(
    tmp_path: Path, path: str, data: bytes | None
) -> None:
    def lying(asked: str) -> bytes | None:
        return data if path in asked else honest(asked)

    with node_that(lying) as node, pytest.raises((NotTrue, NodeFailed)):
        Cache(tmp_path, 1 << 20).have(CID, node)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b'{"tags": 3}', b"[" * 100_000, b'{"tags": ["lora", "lorikeet:nonsense"]}'],
)
def test_an_answer_that_is_no_hubs_is_a_failure_that_names_the_node(answer: bytes) -> None:
    with node_that(lambda path: answer) as node, pytest.raises(NodeFailed, match=r"127\.0\.0\.1"):
        node.find("law")


@pytest.mark.parametrize("tags", [["lora"], ["transformers", f"lorikeet:{CID}"]])
def test_what_another_hub_behind_the_node_has_or_a_base_is_no_adapter(tags: list[str]) -> None:
    data = json.dumps({"tags": tags}).encode()
    with node_that(lambda path: data) as node, pytest.raises(Unknown):
        node.find("org/law")


@pytest.mark.parametrize(
    "data",
    [
        manifest([], version=1),
        manifest([(CONFIG_FILE, 1, blocks([b"x"])), (WEIGHTS_FILE, 1, blocks([b"x"]))], version=2),
        manifest([(CONFIG_FILE, 2, blocks([b"x"])), (WEIGHTS_FILE, 1, blocks([b"x"]))]),
        manifest([(CONFIG_FILE, 1, blocks([b"x"]))] * 2),
        manifest(
            [(CONFIG_FILE, 1 << 19, [(bytes(32), 1 << 19)]), (WEIGHTS_FILE, 1, blocks([b"x"]))]
        ),
        b"\x93",
        bytes(MAX_MANIFEST_BYTES + 1),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_though_its_hash_is_right(data: bytes) -> None:
    with pytest.raises(NotTrue):
        read_manifest(str(Cid.of(data)), data)


def test_a_manifest_of_version_two_has_the_same_files() -> None:
    data = manifest_two()
    assert read_manifest(str(Cid.of(data)), data) == read_manifest(CID, GOOD)
    wrong = manifest_two(version=1)
    with pytest.raises(NotTrue):
        read_manifest(str(Cid.of(wrong)), wrong)


@given(st.binary(max_size=300))
def test_whatever_bytes_a_manifest_has_they_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(NotTrue):
        read_manifest(str(Cid.of(data)), data)


@given(st.binary(min_size=32, max_size=32))
def test_a_cid_holds_its_digest(digest: bytes) -> None:
    assert digest_of(str(Cid(digest))) == digest


@given(st.text(max_size=70))
def test_what_is_no_cid_is_refused(text: str) -> None:
    with pytest.raises(NotTrue):
        digest_of(text)
