"""A stand-in for `python -m engine serve` that speaks the same border: answers 7, 8, 9, … under
credit, dies or stalls when told to.

A prompt that starts with 666 kills the process after two tokens; 777 answers slowly, and embeds
never. Adapters whose
weights path ends in "bad" are refused.
"""

from __future__ import annotations

import os
import socket
import sys
import time

import msgspec

from engine import messages as m


def main() -> None:
    link = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    decoder = msgspec.msgpack.Decoder(m.ToEngine)
    running: dict[int, tuple[m.Submit, int, int]] = {}
    held: list[bytes] = []
    waiting: set[int] = set()

    def send(message: m.Message) -> None:
        frame = msgspec.msgpack.encode(message)
        link.sendall(len(frame).to_bytes(4, "big") + frame)

    def receive(block: bool) -> object | None:
        link.setblocking(block)
        try:
            head = link.recv(4)
        except BlockingIOError:
            return None
        if not head:
            sys.exit(0)
        link.setblocking(True)
        return decoder.decode(link.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))

    def handle(command: object) -> None:
        match command:
            case m.Submit():
                if command.adapter is not None and command.adapter not in held:
                    send(m.Failed(command.request_id, "unknown_adapter", "hold it first"))
                else:
                    running[command.request_id] = (command, 0, command.credit)
            case m.Grant() if command.request_id in running:
                submit, made, credit = running[command.request_id]
                running[command.request_id] = (submit, made, max(credit, command.credit))
            case m.Cancel() if command.request_id in running:
                finish(running.pop(command.request_id), "cancelled")
            case m.HoldAdapter():
                if command.weights_path.endswith("bad"):
                    send(m.AdapterRefused(command.adapter, "tensor 'x.weight' is unknown"))
                else:
                    held.append(command.adapter)
                    send(m.AdapterHeld(command.adapter, 10, 4, 1.0))
            case m.GetStats():
                send(
                    m.Stats(
                        len(running),
                        len(waiting),
                        1,
                        1,
                        adapters_held=held,
                        adapters_ready=held,
                        tokens_generated=0,
                        max_adapters_in_one_step=0,
                        steps=[],
                    )
                )
            case m.Locate():
                send(m.Located(command.adapter, "slot" if command.adapter in held else "absent"))
            case m.Embed() if command.prompt_ids[0] == 666:
                os._exit(1)
            case m.Embed() if command.prompt_ids[0] == 777:
                waiting.add(command.request_id)
            case m.Embed():
                send(m.Embedded(command.request_id, bytes(4 * len(command.prompt_ids))))
            case m.Cancel() if command.request_id in waiting:
                waiting.remove(command.request_id)
            case m.Replay():
                send(m.Replayed(command.request_id, [0.0] * len(command.answer_ids)))

    def finish(state: tuple[m.Submit, int, int], reason: str) -> None:
        submit, made, _ = state
        send(
            m.Finished(
                submit.request_id,
                reason,
                len(submit.prompt_ids),
                made,
                queue_ms=1.0,
                load_ms=0.0,
                prefill_ms=1.0,
                decode_ms=1.0,
                neighbours=1,
            )
        )

    send(
        m.Ready(bytes(32), "float32", 100, 1000, kv_pages=1, page_tokens=16, threads=1, load_ms=1.0)
    )
    while True:
        can_move = any(made < credit for _, made, credit in running.values())
        while (command := receive(block=not can_move)) is not None:
            handle(command)
            can_move = any(made < credit for _, made, credit in running.values())
        for request_id, (submit, made, credit) in list(running.items()):
            if submit.prompt_ids[0] == 666 and made == 2:
                os._exit(1)
            if submit.prompt_ids[0] == 777:
                time.sleep(0.05)
            if made < credit:
                send(m.Tokens(request_id, [7 + made], 1))
                running[request_id] = (submit, made + 1, credit)
            if made + 1 == submit.max_tokens:
                finish(running.pop(request_id), "length")


if __name__ == "__main__":
    main()
