"""What can be written after `python -m engine`. Runs nothing, and imports nothing of the engine."""

from __future__ import annotations

import argparse
from pathlib import Path

LACKS_COMPILER = 3
"""Exit status of `build`; scripts/setup knows it."""


def make_parser(description: str) -> argparse.ArgumentParser:
    """Make the parser of all commands but `bench`, whose arguments another program reads."""
    parser = argparse.ArgumentParser(prog="python -m engine", description=description)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_serve(commands.add_parser("serve", help="speak frames over an inherited socket"))
    commands.add_parser(
        "build",
        help=(
            f"build the native executor ahead of its first use; exit status {LACKS_COMPILER}: only"
            " a compiler is missing"
        ),
    )
    _add_info(commands.add_parser("info", help="what is chosen on this machine, and why"))
    _add_logits(
        commands.add_parser(
            "logits",
            help="write the logits of given token ids to a file, to compare them with anything",
        )
    )
    _add_calibrate(
        commands.add_parser(
            "calibrate",
            help=(
                "how far honest answers of an adapter miss in a replay, and which dishonest ones"
                " that tells"
            ),
        )
    )
    _add_convert(
        commands.add_parser(
            "convert",
            help="write an adapter that began by changing the base (PiSSA, OLoRA), or that MLX"
            " saved, as a PEFT folder with plain LoRA",
        )
    )
    commands.add_parser(
        "bench",
        help="compare with other engines; what follows goes to benchmarks.engine.compare",
        add_help=False,
    )
    return parser


def _add_convert(command: argparse.ArgumentParser) -> None:
    command.add_argument("--base", type=Path, help="where its training changed the base")
    command.add_argument("--adapter", type=Path, required=True, help="a PEFT or MLX folder")
    command.add_argument("--out", type=Path, required=True, help="the folder to write")
    command.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)


def _add_serve(command: argparse.ArgumentParser) -> None:
    command.add_argument("--fd", type=int, required=True)
    command.add_argument("--base", type=Path, required=True)
    _add_machine(command)
    _add_sizes(command)
    command.add_argument(
        "--draft-tokens",
        type=int,
        default=0,
        help="how far to guess ahead from an answer's own text; leaves it unchanged",
    )


def _add_info(command: argparse.ArgumentParser) -> None:
    command.add_argument("--base", type=Path)
    _add_machine(command)
    _add_sizes(command)


def _add_logits(command: argparse.ArgumentParser) -> None:
    _add_base(command)
    command.add_argument("--adapter", type=Path, help="a PEFT folder")
    command.add_argument(
        "--input-ids",
        type=Path,
        required=True,
        help="safetensors with input_ids, whole numbers [batch, length]",
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="safetensors to write: logits, float32 [batch, length, vocab]",
    )
    _add_machine(command)


def _add_calibrate(command: argparse.ArgumentParser) -> None:
    _add_base(command)
    command.add_argument(
        "--adapter",
        type=Path,
        required=True,
        help="a PEFT folder; verification.json is written into it, or to --out",
    )
    command.add_argument("--other", type=Path, help="another PEFT folder, for the comparison")
    command.add_argument(
        "--kinds",
        default="",
        help="what honest nodes run whose answers are judged by one another, as FORMAT/KERNELS,…"
        " (none: every format, by every instruction set that this processor has)",
    )
    command.add_argument("--answers", type=int, default=24, help="answers of each kind")
    command.add_argument("--tokens", type=int, default=96, help="tokens of each answer")
    command.add_argument(
        "--one-in",
        type=int,
        default=10_000,
        help="of so many honest answers at most one may be called suspicious",
    )
    command.add_argument("--threads", type=int, default=0)
    command.add_argument("--out", type=Path)


def _add_base(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--base", type=Path, required=True, help="a Hugging Face folder or a GGUF file"
    )


def _add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "int8", "q4"), default="auto"
    )
    command.add_argument(
        "--kernels",
        choices=("auto", "cuda", "native", "torch", "amx", "avx512_bf16", "avx512", "avx2"),
        default="auto",
        help="an instruction set's name is the native executor built for it",
    )
    command.add_argument("--threads", type=int, default=0)


def _add_sizes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--kv-tokens",
        type=int,
        default=0,
        help="tokens of all running requests together (0: what suits the machine)",
    )
    command.add_argument(
        "--max-adapters",
        type=int,
        default=0,
        help="adapters ready at once (0: what suits the machine)",
    )
