"""Reads what a folder has in the place of a linear's weight when GPTQ, AWQ or compressed-tensors
made it 4 bits wide.

Decides which of these formats are served (`METHODS`). Knows no model, and opens no file: tensors
come as things that can be read.

    gptq     qweight int32 [in / 8, out]: eight inputs of one output in a word, the first lowest;
             qzeros int32 [in / group, out / 8]: eight outputs, the first lowest; each 1 too small
             in checkpoint_format "gptq", as it is in "gptq_v2"
             scales [in / group, out]; g_idx int32 [in]: each input's group, where desc_act
    awq      qweight int32 [in, out / 8], qzeros [in / group, out / 8]: eight outputs in a word, in
             the order of AWQ_ORDER; scales [in / group, out]
    compressed-tensors, pack-quantized
             weight_packed int32 [out, in / 8]: eight inputs, the first lowest; weight_scale
             [out, in / group]; weight_shape [2]: out, in; weight_zero_point int32
             [out / 8, in / group]: eight outputs, the first lowest; where symmetric every zero is 8

A weight is scale * (code - zero). Sources: the QuantLinear classes of AutoGPTQ and GPTQModel
(`convert_gptq_v1_to_v2_format_module` for the 1), WQLinear_GEMM of AutoAWQ, PackedQuantization of
compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from ..errors import ModelError
from .quantised import GROUPS, Quantised

BITS = 4
IN_A_WORD = 8
"""Codes of 4 bits in 32."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs lies in a word's lowest 4 bits, in the next, and so on."""
EIGHT_ONES = 0x11111111
"""1 in each of a word's eight codes.

It is added to whole words, since that is how GPTQModel subtracts it: where a zero is 0, the word
borrows from the next.
"""
SYMMETRIC_ZERO = 8
KINDS = {
    "scales": ("F16", "BF16", "F32"),
    "weight_scale": ("F16", "BF16", "F32"),
    "weight_shape": ("I64", "I32"),
}
"""The number formats of a linear's tensors, as safetensors names them; of the others I32."""


class Readable(Protocol):
    """A tensor in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def kind(self) -> str:
        """Its number format, as safetensors names it."""

    def read(self) -> torch.Tensor:
        """Read it as stored. Raises ModelError."""


@dataclass(frozen=True)
class Codes:
    """A linear taken apart.

    codes: uint8 [out, in / 2], as in Quantised. zeros: uint8 [out, groups], scales [out, groups].
    groups: int64 [in], each input's group, where the folder says it.
    """

    codes: torch.Tensor
    zeros: torch.Tensor
    scales: torch.Tensor
    groups: torch.Tensor | None = None


@dataclass(frozen=True)
class Method:
    """One way to write a linear.

    main: the tensor by which such a linear is recognised; parts: those beside it. shape: gives
    [out, in] of the main tensor's shape. check: gives the shapes that the parts must have by out,
    in and groups. take: takes them apart.
    """

    main: str
    parts: tuple[str, ...]
    optional: tuple[str, ...]
    shape: Callable[[tuple[int, ...]], tuple[int, int]]
    check: Callable[[int, int, int], dict[str, tuple[int, ...]]]
    take: Callable[[Mapping[str, torch.Tensor], Packing], Codes]


@dataclass(frozen=True)
class Packing:
    """What `quantization_config` says of all linears of a folder.

    zero_step: what is added to each stored zero.
    """

    method: Method
    group: int
    zero_step: int = 0


@dataclass(frozen=True)
class PackedLinear:
    """A linear's weight [out, in] that lies in 4 bits in several tensors (`parts`)."""

    name: str
    shape: tuple[int, int]
    packing: Packing
    parts: Mapping[str, Readable]

    def read(self) -> torch.Tensor:
        """Return the weight in float32: exactly scale * (code - zero). Raises ModelError."""
        taken = self._take()
        rows, columns = self.shape
        group = self.packing.group
        codes = torch.stack((taken.codes & 15, taken.codes >> 4), 2).view(rows, columns)
        scales = taken.scales.float()
        zeros = taken.zeros.float()
        if taken.groups is not None:
            return (codes.float() - zeros[:, taken.groups]) * scales[:, taken.groups]
        grouped = codes.view(rows, -1, group).float()
        return ((grouped - zeros[..., None]) * scales[..., None]).view(rows, columns)

    def read_quantised(self) -> Quantised | None:
        """Return the weight as it lies; None where inputs that are no neighbours share a scale
        (desc_act). Raises ModelError.
        """
        if not self.in_order:
            return None
        taken = self._take()
        offsets = -taken.scales.float() * taken.zeros.float()
        return Quantised(taken.codes, taken.scales.half(), offsets.half())

    @cached_property
    def in_order(self) -> bool:
        """Return whether neighbours share a scale, so that it can be kept as it lies."""
        source = self.parts.get("g_idx")
        if source is None:
            return True
        return torch.equal(source.read().long(), torch.arange(self.shape[1]) // self.packing.group)

    def _take(self) -> Codes:
        tensors = {part: source.read() for part, source in self.parts.items()}
        return self.packing.method.take(tensors, self.packing)


def find_linears(packing: Packing, tensors: Mapping[str, Readable]) -> dict[str, PackedLinear]:
    """Return the linears that lie in 4 bits, by the names of their modules. Raises ModelError."""
    suffix = f".{packing.method.main}"
    stems = [name.removesuffix(suffix) for name in tensors if name.endswith(suffix)]
    return {stem: _linear(stem, packing, tensors) for stem in stems}


def describe_linears(linears: Mapping[str, PackedLinear]) -> tuple[str, ...]:
    """Say which linears cannot be kept as they lie, if there are any."""
    moved = [name for name, linear in linears.items() if not linear.in_order]
    if not moved:
        return ()
    return (
        f"{len(moved)} linears of the base ({moved[0]} is the first) have their groups out of order"
        " (desc_act): they are widened, and not kept in 4 bits",
    )


def part_names(packing: Packing, stem: str) -> tuple[str, ...]:
    """Return the names of all tensors that a linear may consist of."""
    method = packing.method
    return tuple(f"{stem}.{part}" for part in (method.main, *method.parts, *method.optional))


def _linear(stem: str, packing: Packing, tensors: Mapping[str, Readable]) -> PackedLinear:
    method = packing.method
    parts = {method.main: tensors[f"{stem}.{method.main}"]}
    for part in (*method.parts, *method.optional):
        source = tensors.get(f"{stem}.{part}")
        if source is not None:
            parts[part] = source
        elif part in method.parts:
            raise ModelError(f"the base lacks the tensor {stem[:200]}.{part}")
    shape = parts[method.main].shape
    if len(shape) != 2 or min(shape) < 1:
        raise ModelError(f"tensor {stem[:200]}.{method.main} has shape {list(shape)}")
    rows, columns = method.shape(shape)
    if columns % packing.group or rows % IN_A_WORD:
        raise ModelError(
            f"linear {stem[:200]} has {columns} inputs and {rows} outputs: no whole groups of"
            f" {packing.group} and of {IN_A_WORD}"
        )
    expected = method.check(rows, columns, columns // packing.group)
    for part, source in parts.items():
        kinds = KINDS.get(part, ("I32",))
        if source.shape != expected.get(part, shape) or source.kind not in kinds:
            raise ModelError(
                f"tensor {stem[:200]}.{part} has shape {list(source.shape)} in {source.kind};"
                f" quantization_config makes it {list(expected.get(part, shape))} in"
                f" {' or '.join(kinds)}"
            )
    return PackedLinear(stem, (rows, columns), packing, parts)


def _codes_of(words: torch.Tensor) -> torch.Tensor:
    """Return the codes in words [n, m], the lowest first: uint8 [n, 8 * m]."""
    pairs = words.to(torch.int32).contiguous().view(torch.uint8)
    return torch.stack((pairs & 15, pairs >> 4), 2).view(len(words), -1)


def _in_pairs(codes: torch.Tensor) -> torch.Tensor:
    """Return codes [out, in] two a byte."""
    return codes[:, 0::2] | codes[:, 1::2] << 4


def _take_gptq(tensors: Mapping[str, torch.Tensor], packing: Packing) -> Codes:
    words = tensors["qweight"].to(torch.int32)
    zeros = _codes_of(tensors["qzeros"].to(torch.int32) + packing.zero_step)
    columns = len(words) * IN_A_WORD
    groups = None
    if "g_idx" in tensors:
        groups = tensors["g_idx"].long()
        if groups.min() < 0 or groups.max() >= columns // packing.group:
            raise ModelError("a g_idx of the base names a group that is not there")
    codes = words.t().contiguous().view(torch.uint8)
    return Codes(codes, zeros.t().contiguous(), tensors["scales"].t().contiguous(), groups)


def _take_awq(tensors: Mapping[str, torch.Tensor], packing: Packing) -> Codes:
    places = torch.argsort(torch.tensor(AWQ_ORDER))

    def ordered(words: torch.Tensor) -> torch.Tensor:
        """Return the codes in words [n, out / 8] in the outputs' order, [out, n]."""
        codes = _codes_of(words)
        return codes.view(len(codes), -1, IN_A_WORD)[..., places].reshape(codes.shape).t()

    codes = _in_pairs(ordered(tensors["qweight"]))
    return Codes(codes, ordered(tensors["qzeros"]).contiguous(), tensors["scales"].t().contiguous())


def _take_compressed(tensors: Mapping[str, torch.Tensor], packing: Packing) -> Codes:
    words = tensors["weight_packed"].to(torch.int32).contiguous()
    scales = tensors["weight_scale"].contiguous()
    shape = [len(words), words.shape[1] * IN_A_WORD]
    if tensors["weight_shape"].tolist() != shape:
        raise ModelError(f"a weight_shape of the base is not {shape}, which its tensor has")
    given = tensors.get("weight_zero_point")
    if given is None:
        zeros = torch.full(scales.shape, SYMMETRIC_ZERO, dtype=torch.uint8)
    else:
        zeros = _codes_of(given.t()).t().contiguous()
    return Codes(words.view(torch.uint8), zeros, scales)


GPTQ = Method(
    "qweight",
    ("qzeros", "scales"),
    ("g_idx",),
    lambda shape: (shape[1], shape[0] * IN_A_WORD),
    lambda rows, columns, groups: {
        "qzeros": (groups, rows // IN_A_WORD),
        "scales": (groups, rows),
        "g_idx": (columns,),
    },
    take=_take_gptq,
)
AWQ = Method(
    "qweight",
    ("qzeros", "scales"),
    (),
    lambda shape: (shape[1] * IN_A_WORD, shape[0]),
    lambda rows, columns, groups: {"qzeros": (groups, rows // IN_A_WORD), "scales": (groups, rows)},
    take=_take_awq,
)


def _compressed(*zeros: str) -> Method:
    return Method(
        "weight_packed",
        ("weight_scale", "weight_shape", *zeros),
        (),
        lambda shape: (shape[0], shape[1] * IN_A_WORD),
        lambda rows, columns, groups: {
            "weight_scale": (rows, groups),
            "weight_shape": (2,),
            "weight_zero_point": (rows // IN_A_WORD, groups),
        },
        take=_take_compressed,
    )


COMPRESSED = {True: _compressed(), False: _compressed("weight_zero_point")}
"""By whether it is symmetric."""


# --- what quantization_config says ---


def read_packing(raw: Mapping[str, Any]) -> Packing:
    """Read a folder's `quantization_config`. Raises ModelError that names what is not served."""
    method = raw.get("quant_method")
    read = METHODS.get(method) if isinstance(method, str) else None
    if read is None:
        raise _refused("quant_method", method, METHODS)
    return read(raw)


def _read_gptq(raw: Mapping[str, Any]) -> Packing:
    group = _bits_and_group(raw)
    steps = {"gptq": EIGHT_ONES, "gptq_v2": 0}
    form = raw.get("checkpoint_format") or raw.get("format") or "gptq"
    if form not in steps:
        raise _refused("checkpoint_format", form, steps)
    _need(raw, "pack_dtype", (None, "int32"))
    dynamic = raw.get("dynamic")
    skips = isinstance(dynamic, dict) and all(each.startswith("-:") for each in dynamic)
    if dynamic is not None and not skips:  # what is left out is told by its tensors
        raise _refused("dynamic", dynamic, ("modules that are left out (-:)",))
    _need(raw, "is_marlin_format", (None, False))
    return Packing(GPTQ, group, steps[form])


def _read_awq(raw: Mapping[str, Any]) -> Packing:
    group = _bits_and_group(raw)
    _need(raw, "version", ("gemm", "GEMM", None))
    _need(raw, "checkpoint_format", ("gemm", None))
    _need(raw, "zero_point", (True, None))
    return Packing(AWQ, group)


def _read_compressed(raw: Mapping[str, Any]) -> Packing:
    _need(raw, "format", ("pack-quantized",))
    for name in ("kv_cache_scheme", "sparsity_config", "transform_config"):
        _need(raw, name, (None, {}))
    groups = raw.get("config_groups")
    first = list(groups.values()) if isinstance(groups, dict) else []
    if len(first) != 1 or not isinstance(first[0], dict):
        raise _refused("config_groups", f"{len(first)} groups", ("a single one",))
    scheme = first[0]
    _need(scheme, "format", (None, "pack-quantized"))
    _need(scheme, "input_activations", (None,))
    _need(scheme, "output_activations", (None,))
    weights = scheme.get("weights")
    weights = weights if isinstance(weights, dict) else {}
    _need(weights, "num_bits", (BITS,))
    _need(weights, "type", ("int",))
    _need(weights, "strategy", ("group",))
    _need(weights, "symmetric", (True, False))
    _need(weights, "dynamic", (None, False))
    _need(weights, "actorder", (None, "static", "weight"))  # neither moves an input
    _need(weights, "group_size", GROUPS)
    return Packing(COMPRESSED[weights["symmetric"]], weights["group_size"])


def _bits_and_group(raw: Mapping[str, Any]) -> int:
    _need(raw, "bits", (BITS,))
    _need(raw, "group_size", GROUPS)
    group: int = raw["group_size"]
    return group


def _need(raw: Mapping[str, Any], name: str, served: tuple[Any, ...]) -> None:
    """Raise ModelError unless a field has one of these values, in their type too."""
    value = raw.get(name)
    if not any(type(value) is type(each) and value == each for each in served):
        raise _refused(name, value, [each for each in served if each is not None])


def _refused(name: str, value: object, served: Any) -> ModelError:
    choices = ", ".join(map(str, served))
    return ModelError(
        f"config.json: quantization_config: {name} {str(value)[:40]!r} is not served; we serve"
        f" {choices}. Use a folder in these, the unquantised one, or a GGUF file"
    )


METHODS: dict[str, Callable[[Mapping[str, Any]], Packing]] = {
    "gptq": _read_gptq,
    "awq": _read_awq,
    "compressed-tensors": _read_compressed,
}
"""What is served, by `quant_method`."""
