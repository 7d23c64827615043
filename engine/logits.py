"""Writes what the engine computes for given token ids to a file, to be compared with anything
(`python -m engine logits`).

Samples nothing and knows no text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .batch import build_batch
from .choose import choose_machine
from .config import EngineConfig
from .count import ceil_div
from .decoder import Decoder
from .errors import DeviceLost, InvalidRequest
from .kv.cache import KvCache
from .lora.adapter import load_adapter
from .lora.bank import Bank, CopyDone, SlotBank
from .messages import Sampling
from .model.weights import open_weights
from .noise import SEED_BYTES
from .sampler import Chooser
from .schedule import Chunk
from .sequence import Sequence

ADAPTER = b"\1" * 32
MAX_IDS = 1 << 22


@dataclass(frozen=True)
class Job:
    """The task: `adapter` is a PEFT folder or None; `ids_path` holds `input_ids` [batch, length],
    `out_path` gets `logits`.
    """

    config: EngineConfig
    adapter: Path | None
    ids_path: Path
    out_path: Path


def write_logits(job: Job) -> tuple[int, ...]:
    """Compute and write `logits` [batch, length, vocab] float32; return their shape.

    Raises CannotServe with one line that names the field. The path is the serving one: chunks of
    `step_tokens` rows over paged keys and values, the adapter in a slot.
    """
    ids = read_ids(job.ids_path)
    if not job.out_path.absolute().parent.is_dir():
        raise InvalidRequest(
            f"--out: there is no folder {job.out_path.absolute().parent}; make it first"
        )
    with torch.inference_mode():
        logits = _run(job, ids)
    whole = job.out_path.with_name(job.out_path.name + ".partial")
    save_file({"logits": logits}, whole)
    whole.replace(job.out_path)
    return tuple(logits.shape)


def read_ids(path: Path) -> torch.Tensor:
    """Read `input_ids` [batch, length] int64 from a safetensors file. Raises InvalidRequest."""
    try:
        with safe_open(path, framework="pt") as file:
            if "input_ids" not in file.keys():  # noqa: SIM118 (a handle is no mapping)
                raise InvalidRequest(f"--input-ids: {path.name} holds no tensor input_ids")
            ids: torch.Tensor = file.get_tensor("input_ids")
    except (OSError, SafetensorError) as error:
        raise InvalidRequest(
            f"--input-ids: {path} cannot be read as safetensors: {error}"
        ) from error
    if (
        ids.is_floating_point()
        or ids.dtype == torch.bool
        or ids.dim() != 2
        or not 1 <= ids.numel() <= MAX_IDS
    ):
        raise InvalidRequest(
            f"--input-ids: input_ids is {ids.dtype} of shape {list(ids.shape)}; it must be whole"
            f" numbers [batch, length], at most {MAX_IDS}"
        )
    return ids.to(torch.int64)


def _run(job: Job, ids: torch.Tensor) -> torch.Tensor:
    weights = open_weights(job.config.base_path)
    base = weights.config
    length = ids.shape[1]
    chosen = choose_machine(job.config, weights)
    accelerator = chosen.accelerator
    config = chosen.config
    choice = chosen.dtype
    torch.set_num_threads(config.threads)
    if length > base.context:
        raise InvalidRequest(
            f"--input-ids: input_ids has rows of {length} tokens; the base's context is"
            f" {base.context}"
        )
    if int(ids.min()) < 0 or int(ids.max()) >= base.vocab_size:
        raise InvalidRequest(
            f"--input-ids: input_ids lie in [{int(ids.min())}, {int(ids.max())}]; the base's"
            f" vocabulary is [0, {base.vocab_size})"
        )
    num_pages = ceil_div(length, config.page_tokens)
    arrived: SimpleQueue[CopyDone | DeviceLost] = SimpleQueue()
    bank: Bank = SlotBank()
    if accelerator is not None:
        asked = replace(config, kv_tokens=(1 + num_pages) * config.page_tokens, max_adapters=1)
        bank = accelerator.make_bank(base, accelerator.divide(base, choice, asked), arrived.put)
    if job.adapter is not None:
        packed = load_adapter(
            job.adapter / "adapter_config.json",
            job.adapter / "adapter_model.safetensors",
            weights,
            choice.dtype,
        )
        if not bank.load(0, 1, packed) and isinstance(lost := arrived.get(), DeviceLost):
            raise lost
    decoder = Decoder(
        weights,
        choice.dtype,
        length,
        config.kernels,
        threads=config.threads,
        stored=choice.stored,
        accelerator=accelerator,
    )
    cache = KvCache(
        decoder.make_pool(1 + num_pages, config.page_tokens),
        config.page_tokens,
        accelerator is not None,
    )
    pages = list(range(1, 1 + num_pages))
    forward = _Forward(decoder, cache, bank, config.step_tokens)
    rows = []
    for tokens in ids.tolist():
        cache.clean(pages)
        rows.append(forward(tokens, None if job.adapter is None else ADAPTER, pages))
    return torch.stack(rows)


@dataclass(frozen=True)
class _Forward:
    decoder: Decoder
    cache: KvCache
    bank: Bank
    step_tokens: int

    def is_long(self, num_tokens: int) -> bool:
        """Return whether rows of so many tokens, the decoder's context, rotate as long ones."""
        short = self.decoder.config.short_context
        return short is not None and num_tokens > short

    def __call__(self, tokens: list[int], adapter: bytes | None, pages: list[int]) -> torch.Tensor:
        """Compute all logits [length, vocab] of one row, chunk by chunk."""
        chooser = Chooser(Sampling(bytes(SEED_BYTES)), tokens)
        sequence = Sequence(
            1,
            1,
            tokens,
            len(tokens),
            adapter=adapter,
            chooser=chooser,
            max_length=len(tokens),
            credit=0,
            stop_ids=frozenset(),
            arrived_s=0.0,
            pages=pages,
            angle_offset=len(tokens) if self.is_long(len(tokens)) else 0,
        )
        slot_of: Callable[[bytes], int] = {ADAPTER: 0}.__getitem__
        parts = []
        for start in range(0, len(tokens), self.step_tokens):
            count = min(self.step_tokens, len(tokens) - start)
            batch = build_batch(
                [Chunk(sequence, start, count, count)], slot_of, self.bank, self.cache.page_tokens
            )
            parts.append(self.decoder.forward(batch.input, self.cache.pool).cpu().clone())
        return torch.cat(parts)
