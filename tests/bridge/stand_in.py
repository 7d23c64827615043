"""A stand-in for a vLLM server, as far as the bridge sees one: routes, forms, refusals as read in
vLLM 0.32 (vllm/entrypoints/scale_out/token_in_token_out, .../serve/lora, .../openai/models), with
Lorikeet's plug-in in it. Its answers follow from the last token and the adapter, and it can be told
to fail in every way that a server has.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LORA_UPDATES = {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
VOCAB = 259


class StandIn(ThreadingHTTPServer):
    """The server. What it was asked stands in `asked`; how it fails is set from outside."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, model: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.model = model
        self.adapters: dict[str, str] = {}
        self.resolves: set[str] = set()
        self.asked: list[dict[str, Any]] = []
        self.unloaded: list[str] = []
        self.hung_up = threading.Event()
        self.fault = ""
        self.token_s = 0.0
        self.key = ""
        self.is_healthy = True
        self.has_generate = True
        self.has_updates = True
        self.has_plugin = True
        self.checks_names = True
        self.max_logprobs = 21

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> StandIn:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def next_token(self, model: str, tokens: list[int]) -> int:
        place = 0 if model == self.model else 1 + sorted(self.adapters).index(model)
        return (tokens[-1] * 7 + 3 + 11 * place) % VOCAB


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        match self.path if self.server.is_healthy else "":
            case "":
                self.say(503, {"error": {"message": "the engine core died"}})
            case "/health":
                self.say(200, {})
            case "/v1/models":
                base = {"id": self.server.model, "root": self.server.model, "parent": None}
                cards = [base | {"max_model_len": 64}]
                for name, path in self.server.adapters.items():
                    cards.append({"id": name, "root": path, "parent": self.server.model})
                self.say(200, {"object": "list", "data": cards})
            case "/metrics":
                self.say_text(
                    'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
                    'vllm:kv_cache_usage_perc{engine="0"} 0.25\n'
                )
            case _:
                self.say(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        given = self.headers.get("authorization", "")
        if self.server.key and given != f"Bearer {self.server.key}":
            self.say(401, {"error": "Unauthorized"})
        elif self.path in LORA_UPDATES and self.server.has_updates:
            self.update(body)
        elif self.path != "/inference/v1/generate":
            self.say(404, {"detail": "Not Found"})
        elif self.server.has_generate:
            self.generate(body)
        else:
            self.say(403, {"error": {"message": "Scale-out endpoints are disabled."}})

    def update(self, body: dict[str, Any]) -> None:
        name = body["lora_name"]
        if not name:
            self.refuse(400, "Both 'lora_name' and 'lora_path' must be provided.")
        elif self.path.endswith("unload_lora_adapter"):
            self.server.unloaded.append(name)
            if self.server.adapters.pop(name, None):
                self.say_text(f"Success: {name}")
            else:
                self.refuse(404, f"The lora adapter '{name}' cannot be found.")
        elif name in self.server.adapters:
            self.refuse(400, "has already been loaded")
        elif self.server.fault == "no load":
            self.refuse(500, "LoRA rank 64 is greater than max_lora_rank 16.")
        else:
            self.server.adapters[name] = body["lora_path"]
            self.say_text(f"Success: {name}")

    def generate(self, body: dict[str, Any]) -> None:
        server, model, asked = self.server, body["model"], body["sampling_params"]
        if model in server.resolves:
            server.adapters[model] = "fetched"
        terms = asked["extra_args"]["lorikeet"]
        if "probe" not in terms:
            server.asked.append(body)
        if model != server.model and model not in server.adapters and server.checks_names:
            self.refuse(404, f"The model `{model}` does not exist.")
        elif (asked.get("logprobs") or 0) > server.max_logprobs:
            self.refuse(400, "logprobs: greater than max allowed")
        elif "probe" not in terms and server.fault in ("400", "404", "500", "503"):
            self.refuse(int(server.fault), "as it was told to")
        else:
            self.stream(body, terms)

    def stream(self, body: dict[str, Any], terms: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for event in self.events(body, terms):
                self.chunk(event)
            self.chunk(b"data: [DONE]\n\n")
            self.chunk(b"")
        except (ConnectionError, TimeoutError):
            self.server.hung_up.set()

    def events(self, body: dict[str, Any], terms: dict[str, Any]) -> Iterator[bytes]:
        server, asked = self.server, body["sampling_params"]
        tokens, made = list(body["token_ids"]), 0
        told = [terms["probe"], *b"1 float32"] if "probe" in terms and server.has_plugin else []
        fault = "" if "probe" in terms else server.fault
        while True:
            time.sleep(server.token_s)
            if told:
                token = told[made] if made < len(told) else 0
            else:
                token = server.next_token(body["model"], tokens)
            tokens.append(token)
            made += 1
            ends = token in asked.get("stop_token_ids", [])
            reason = "stop" if ends else "length" if made == asked["max_tokens"] else None
            choice: dict[str, Any] = {"index": 0, "token_ids": [token], "finish_reason": reason}
            if asked.get("logprobs") is not None:
                choice["logprobs"] = {"content": [logprobs_of(token, asked["logprobs"])]}
            if made == 2 and fault:
                if fault == "cut":
                    self.close_connection = True
                    self.connection.close()
                    raise ConnectionError
                yield from spoilt(fault, choice)
                return
            yield event({"request_id": "x", "choices": [choice]})
            if reason:
                yield event({"request_id": "x", "choices": [], "usage": {"prompt_tokens": 1}})
                return

    def refuse(self, status: int, words: str) -> None:
        self.say(status, {"error": {"message": words, "code": status}})

    def say(self, status: int, body: Any) -> None:
        self.say_text(json.dumps(body), status)

    def say_text(self, text: str, status: int = 200) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


def event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def logprobs_of(token: int, count: int) -> dict[str, Any]:
    """As vLLM does: the drawn id first, then the likeliest, as many as were asked for together."""
    ranked = [{"token_id": token, "logprob": -2.5, "rank": 9}]
    ranked += [{"token_id": at, "logprob": -1.0 - at / 10, "rank": at + 1} for at in range(count)]
    return {"token_id": token, "logprob": -2.5, "top_logprobs": ranked[: max(count, 1)]}


def spoilt(fault: str, choice: dict[str, Any]) -> Iterator[bytes]:
    """The rest of an answer that fails."""
    match fault:
        case "error":
            yield event({"error": {"message": "the engine core died", "code": 500}})
        case "too many":
            yield event({"choices": [choice | {"token_ids": [5] * 4000}]})
        case "wrong id":
            yield event({"choices": [choice | {"token_ids": [VOCAB]}]})
        case "no reason":
            yield event({"choices": [choice]})
        case "early":
            yield event({"choices": [choice | {"finish_reason": "length"}]})
        case "abort":
            yield event({"choices": [choice | {"token_ids": [], "finish_reason": "abort"}]})
        case "no json":
            yield b"data: {tokens\n\n"
        case "long line":
            yield b"data: " + b"x" * ((1 << 20) + 9)
        case _:
            raise AssertionError(fault)
