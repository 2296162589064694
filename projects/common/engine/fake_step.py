"""A training step on tensors that have shapes and no contents, and the bytes that it would hold.

    floats ─► Shape: shape, type and lifetime, nothing behind them, however large the model
    integers and booleans ─► real: token ids, masks and what is decided by them
    Shape > 0 ─► real and False: "nothing predicted yet"

Model and loss run as they are, backward and recomputation included, so the count stays true when
they change. It is made as by torch's allocator: a tensor counts from the operation that makes it
until nothing refers to it.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from projects.common.engine.flops import FlopCount
from projects.common.engine.model import TrainableModel

DEVICES = ("cuda", "cpu")  # whose attention kernels and autocast rules are followed
_BLOCK = {"cuda": 512, "cpu": 1}  # bytes that the allocator rounds up to
_COMPARISONS = {torch.ops.aten.gt, torch.ops.aten.ge, torch.ops.aten.lt, torch.ops.aten.le}
_INDEXED = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}
# what CUDA's autocast computes in float32, and the CPU's does not
_PRECISE = ("layer_norm", "group_norm", "softmax", "log_softmax")
_HALVES = (torch.bfloat16, torch.float16)
_PIXELS = 2**20  # integers of this number and more are those of pictures
_CPU = torch.device("cpu")
_DEVICE = torch.ops.prim.device.default  # autocast asks for it, and leaves alone what is on meta


@dataclass
class Held:
    """Bytes of a training step, beside weights and gradients, and its arithmetic."""

    forward: int = 0  # bytes when forward has ended: what backward needs, and the batch
    peak: int = 0  # bytes at the worst moment of forward and backward
    flops: int = 0  # of forward and backward
    recomputed: int = 0  # flops of what backward computes once more


class Ledger:
    """Bytes that are alive, by the storages that hold them."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.live = self.peak = 0
        self._known: dict[int, int] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, unless it is known."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        size = -(-storage.nbytes() // self.block) * self.block
        self._know(storage, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def forget(self, tensor: Tensor) -> None:
        """Count a tensor's storage no more, or never, though it stays."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._know(storage, 0)
        self.live -= self._known[storage._cdata]
        self._known[storage._cdata] = 0

    def _know(self, storage: torch.UntypedStorage, size: int) -> None:
        self._known[storage._cdata] = size
        weakref.finalize(storage, self._release, storage._cdata).atexit = False

    def _release(self, key: int) -> None:
        self.live -= self._known.pop(key)


class Shape(Tensor):
    """A tensor on the CPU as far as anybody can see, with its contents on the meta device.

    torch's own FakeTensor does the same; it looks further into each operation, for compilers, and
    takes several times as long.
    """

    hollow: Tensor  # on the meta device

    @staticmethod
    def __new__(cls, inner: Tensor) -> Shape:
        made = Tensor._make_subclass(
            cls, inner, False, dispatch_device=True, device_for_backend_keys=_CPU
        )
        made.hollow = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return _CPU

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Shape({tuple(self.shape)}, {self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Outside of :func:`without_contents`, where nothing is counted."""
        if func is _DEVICE:
            return _CPU
        return _wrap(_on_meta(func, args, kwargs or {}))


class _Shapes(TorchDispatchMode):
    """Answers every operation by its shapes, if a tensor without contents takes part in it."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE:
            return _CPU
        out = self._answer(func, args, kwargs or {})
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.ledger.add(tensor)
        return out

    def _answer(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(isinstance(tensor, Shape) or tensor.is_meta for tensor in tensors):
            return self._from_real(func, args, kwargs)
        name = func.overloadpacket
        if name in _COMPARISONS:
            return torch.zeros(_shape(args), dtype=torch.bool)
        if func._schema.name.endswith("_"):
            return self._in_place(func, args, kwargs)
        if name in _INDEXED:
            args = (args[0], _positions(args[1]), *args[2:])
        return _wrap(_on_meta(func, args, kwargs))

    def _in_place(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """What is written into a real tensor, nobody will miss."""
        if isinstance(args[0], Shape) and func.overloadpacket not in _INDEXED:
            _on_meta(func, args, kwargs)
        return args[0]

    def _from_real(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Floats that are made on the meta device, and pixels, have no contents, all else has."""
        device = kwargs.get("device")
        if device is None or torch.device(device).type != "meta":
            return func(*args, **kwargs)
        made = _wrap(_on_meta(func, args, kwargs))
        if made.is_floating_point() or made.numel() > _PIXELS:
            return made
        return func(*args, **{**kwargs, "device": _CPU})


def _on_meta(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    args, kwargs = tree_map_only(Tensor, _inner, (args, kwargs))
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("meta")
    return func(*args, **kwargs)


def _inner(tensor: Tensor) -> Tensor:
    """On the meta device, with the same shape and strides."""
    if isinstance(tensor, Shape):
        return tensor.hollow
    if tensor.is_meta:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _wrap(out: Any) -> Any:
    return tree_map_only(Tensor, Shape, out)


@contextmanager
def _kernels_of(device: str) -> Iterator[None]:
    """The attention that the device would choose, and what CUDA's autocast does in float32.

    Put in place of the functions, since a mode of torch does not reach what backward recomputes.
    """
    names = ("scaled_dot_product_attention", *_PRECISE)
    plain = {name: getattr(F, name) for name in names}
    attention = {"cuda": _attention_of_cuda, "cpu": _attention_of_cpu}[device]
    F.scaled_dot_product_attention = partial(_attention, attention, plain[names[0]])
    if device == "cuda":
        for name in _PRECISE:
            setattr(F, name, partial(_in_float32, plain[name]))
    try:
        yield
    finally:
        for name, function in plain.items():
            setattr(F, name, function)


def _in_float32(function: Callable, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if torch.is_autocast_enabled("cpu") and tensor.dtype in _HALVES:
        tensor = tensor.float()
        args, kwargs = tree_map_only(Tensor, Tensor.float, (args, kwargs))
    return function(tensor, *args, **kwargs)


def _attention(
    kernel: Callable,
    plain: Callable,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """A kernel that keeps no scores, or the plain one where the device has none for the case."""
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    grouped = enable_gqa and query.shape[1] != key.shape[1]
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = query.new_empty(attn_mask.shape)  # becomes numbers that are added
    out = kernel(query, key, value, attn_mask, dropout_p, is_causal, scale, grouped)
    if out is not None:
        return out
    with sdpa_kernel(SDPBackend.MATH):  # else torch would choose for the CPU, where Shapes are
        return plain(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )


def _attention_of_cuda(query, key, value, mask, dropout, causal, scale, grouped) -> Tensor | None:
    """Flash in half precision, else memory-efficient, which wants as many keys as queries."""
    if mask is None and query.dtype in _HALVES:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout, causal, scale=scale)[0]
    if grouped:
        return None
    if mask is not None:
        mask = mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, mask, True, dropout, causal, scale=scale)[0]


def _attention_of_cpu(query, key, value, mask, dropout, causal, scale, grouped) -> Tensor | None:
    if dropout or query.ndim != 4 or (mask is not None and mask.requires_grad):
        return None
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return flash(query, key, value, dropout, causal, attn_mask=mask, scale=scale)[0]


def _shape(args: Any) -> torch.Size:
    """Of a comparison's result."""
    shapes = [arg.shape for arg in args if isinstance(arg, Tensor)]
    return torch.broadcast_shapes(*shapes)


def _positions(index: Any) -> list[Tensor | None]:
    """The index of a tensor with its boolean parts as positions, which have a known number."""
    found: list[Tensor | None] = []
    for part in index:
        is_choice = part is not None and part.dtype in (torch.bool, torch.uint8)
        found += part.nonzero().unbind(1) if is_choice else [part]
    return found


@contextmanager
def without_contents(device: str) -> Iterator[Ledger]:
    """Inside, floats made on ``torch.device("meta")`` have no contents; all tensors are counted.

    Args:
        device: ``cuda`` or ``cpu``: whose kernels are followed; neither needs to be there.
    """
    if device not in DEVICES:
        raise ValueError(
            f"no device {device!r} to estimate for; choose one of {', '.join(DEVICES)}"
        )
    ledger = Ledger(_BLOCK[device])
    with ExitStack() as stack:
        stack.enter_context(_Shapes(ledger))
        stack.enter_context(_kernels_of(device))
        yield ledger


def settle(model: nn.Module) -> None:
    """Prepare a model from the meta device, inside of :func:`without_contents`."""
    made: dict[int, nn.Parameter] = {}  # tied weights stay one
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(
                    torch.empty_like(parameter), requires_grad=parameter.requires_grad
                )
            if parameter is not None:
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer)


def fake_step(model: TrainableModel, make_batch: Callable[[], Any], ledger: Ledger) -> Held:
    """Forward and backward of one batch, inside of :func:`without_contents`.

    Args:
        model: built on the meta device, then given to :func:`settle` there.
        make_batch: called inside, so that the batch counts too.

    Returns:
        Bytes beside the weights and the gradients of parameters, and flops.
    """
    gc.collect()
    start = ledger.peak = ledger.live
    trained = [p for p in model.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(lambda p: ledger.forget(p.grad)) for p in trained]
    with FlopCount() as count:
        losses = model(make_batch(), mode="loss")
        total = model.parse_losses(losses)[0]
        forward = ledger.live - start
        count.is_backward = True
        total.backward()
    held = Held(forward, ledger.peak - start, count.model, count.recomputed)
    for hook in hooks:
        hook.remove()
    for parameter in trained:
        parameter.grad = None
    return held
