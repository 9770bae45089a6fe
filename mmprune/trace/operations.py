"""The table of operations: what each has for inputs and attributes, and how it shapes its output.

Every traced graph is checked against it before anything is made of the graph, so that a wrong
parser is told by the node and the module that it has read, and not by a rule somewhere else. The
contract of a row:

    'cat': takes(1, None, dim=DIM)

An operation that takes from one to any number of inputs, and has one attribute, which is a dim of
its largest tensor. Inputs count whether they are traced or constants. An operation without a row is
not checked; who adds one adds a row for it, ``OPERATIONS['cumprod'] = takes(1, dim=DIM)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from mmprune.errors import InputError, nearest
from mmprune.trace.parsers import PARSERS
from mmprune.trace.trace_graph import TraceNode

Shape = tuple[int, ...]


class ParserError(InputError):
    """A backward parser failed, or gave what the operation that it names does not have."""


@dataclass(frozen=True)
class Kind:
    """What an attribute is.

    Attributes:
        text: In words, for messages.
        fits: Whether a value is one, given how many dims the largest tensor of the node has.
    """

    text: str
    fits: Callable[[Any, int], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_dim(value: Any, rank: int) -> bool:
    return _is_whole(value) and -rank <= value < max(rank, 1)


def _all(value: Any, fits: Callable[..., bool], *args: Any) -> bool:
    return isinstance(value, tuple) and all(fits(item, *args) for item in value)


WHOLE = Kind('a whole number', lambda value, rank: _is_whole(value))
WHOLES = Kind('a tuple of whole numbers', lambda value, rank: _all(value, _is_whole))
NUMBER = Kind('a number', lambda value, rank: isinstance(value, int | float))
DIM = Kind('a dim of its tensors', _is_dim)
DIMS = Kind('a tuple of dims of its tensors', lambda value, rank: _all(value, _is_dim, rank))
YES_OR_NO = Kind('True or False', lambda value, rank: isinstance(value, bool))
TEXT = Kind('a text', lambda value, rank: isinstance(value, str))
SHAPE_LIST = Kind(
    'a tuple of shapes', lambda value, rank: _all(value, lambda item: _all(item, _is_whole))
)
SHAPES = Kind('a dict of shapes', lambda value, rank: isinstance(value, Mapping))


def maybe(kind: Kind) -> Kind:
    """This kind, or None."""
    return Kind(f'{kind.text}, or None', lambda v, rank: v is None or kind.fits(v, rank))


@dataclass(frozen=True)
class Operation:
    """A row of the table, see :func:`takes`."""

    least: int
    most: int | None
    attrs: Mapping[str, Kind]
    further: Mapping[str, Kind] = field(default_factory=dict)
    gives: str = ''

    def problem(self, node: TraceNode, shapes: Sequence[Shape]) -> str:
        """What is wrong with a node, given the shapes of its traced inputs; empty if nothing is."""
        count = len(node.inputs)
        if count < self.least or (self.most is not None and count > self.most):
            return f'it takes {self._inputs()}, and this node has {count}'
        for name, kind in self.attrs.items():
            if name not in node.attrs:
                found = f'the parser gave {sorted(set(node.attrs) - ADDED) or "none"}'
                return f"it lacks the attribute '{name}' ({kind.text}); {found}"
        for name, value in node.attrs.items():
            known = self.attrs.get(name) or self.further.get(name)
            if known is None:
                if name in ADDED:
                    continue
                has = nearest(name, [*self.attrs, *self.further])
                return f"it has no attribute '{name}'; {has}"
            rank = max(map(len, (*shapes, *node.shapes)), default=0)
            if not known.fits(value, rank):
                of = f' (which have up to {rank} dims)' if known in (DIM, DIMS) else ''
                return f"its attribute '{name}' is {known.text}{of}, and this is {value!r}"
        return self._misshapen(node.shapes[0], shapes) if self.gives else ''

    def _inputs(self) -> str:
        if self.most == self.least:
            return f'{self.least} input{"s" if self.least > 1 else ""}'
        return f'{self.least} or more inputs' if self.most is None else (
            f'{self.least} to {self.most} inputs'
        )  # fmt: skip

    def _misshapen(self, output: Shape, shapes: Sequence[Shape]) -> str:
        for shape in shapes:
            if not SHAPED[self.gives](shape, output):
                return f'it gives {self.gives}, and this node turns {shape} into {output}'
        return ''


def _broadcast(shape: Shape, output: Shape) -> bool:
    """Whether a tensor of this shape broadcasts to the output."""
    pairs = zip(reversed(shape), reversed(output), strict=False)
    return shape == output or (
        len(shape) <= len(output) and all(size in (1, wide) for size, wide in pairs)
    )


# What an operation may say of its output, as a message says it -> whether it holds.
SHAPED: dict[str, Callable[[Shape, Shape], bool]] = {
    'one element for those in its place of every input': _broadcast,
    'the elements that it is given': lambda shape, output: prod(shape) == prod(output),
    'a tensor of the same shape': lambda shape, output: shape == output,
}
BROADCAST, MOVED, ALIKE = SHAPED

# What the tracer adds by itself.
ADDED = frozenset({'constant_shapes', 'is_update', 'buffers', 'written'})


def takes(
    least: int,
    *most: int | None,
    gives: str = '',
    further: Mapping[str, Kind] | None = None,
    **attrs: Kind,
) -> Operation:
    """A row of the table.

    Args:
        least: How many inputs the operation has.
        most: The most that it may have, if it may have more; None for any number.
        gives: One of ``BROADCAST``, ``MOVED`` and ``ALIKE``, if that holds of its first output.
        further: Attributes that it may have.
        attrs: Attributes that it has.
    """
    return Operation(least, most[0] if most else least, attrs, further or {}, gives)


OPERATIONS: dict[str, Operation] = {
    # arithmetic
    'elementwise': takes(
        1, None, gives=BROADCAST, further=dict(constants=SHAPES, low=NUMBER, high=NUMBER)
    ),
    'reduce': takes(1, dims=maybe(DIMS), keepdim=YES_OR_NO, how=TEXT),
    'softmax': takes(1, gives=ALIKE, dim=DIM),
    'along': takes(1, dim=DIM),
    'glu': takes(1, dim=DIM),
    'loss': takes(1, None),
    'distance': takes(2, how=TEXT),
    # products
    'matmul': takes(2),
    'addmm': takes(3),
    'mv': takes(2),
    'dot': takes(2),
    'cdist': takes(2, None),
    'bilinear': takes(3),
    'grouped_matmul': takes(2, None, block=WHOLE, columns_last=YES_OR_NO),
    'attention': takes(3, None, is_scaled_by_width=YES_OR_NO),
    # layers
    'conv': takes(2, 3, further=dict(padding=WHOLES), groups=WHOLE, transposed=YES_OR_NO),
    'deform_conv': takes(3, 5, groups=WHOLE, transposed=YES_OR_NO, blocks=WHOLE, places=WHOLE),
    'deform_attention': takes(5),
    'batch_norm': takes(1, 3),
    'group_norm': takes(1, 3, groups=WHOLE),
    'layer_norm': takes(1, 3, normalized_shape=WHOLES),
    'rms_norm': takes(1, 2, normalized_shape=WHOLES),
    'weight_norm': takes(2, dim=WHOLE),
    'embedding': takes(1, 2),
    'recurrent': takes(
        2, None, gates=WHOLE, states=WHOLE, layers=WHOLE, directions=WHOLE, has_biases=YES_OR_NO
    ),
    # space
    'spatial': takes(1, 2),
    'spatial1d': takes(1, 2),
    'spatial3d': takes(1, 2),
    'regions': takes(2, 3),
    'unfold': takes(1),
    'fold': takes(1),
    'windows': takes(1, dim=DIM),
    'fft': takes(1, dims=DIMS),
    # moved data
    'view': takes(1, gives=MOVED),
    'transpose': takes(1, gives=MOVED, dim0=DIM, dim1=DIM),
    'permute': takes(1, gives=MOVED, dims=DIMS),
    'triangle': takes(1, gives=ALIKE, is_ordered=YES_OR_NO),
    'flip': takes(1, gives=ALIKE, dims=DIMS),
    'roll': takes(1, gives=ALIKE, dims=DIMS, shifts=WHOLES),
    'channel_shuffle': takes(1, gives=ALIKE, groups=WHOLE),
    'pixel_shuffle': takes(1, gives=MOVED, factor=WHOLE),
    'pixel_unshuffle': takes(1, gives=MOVED, factor=WHOLE),
    'expand': takes(1, gives=BROADCAST),
    'filled': takes(1, varying=DIMS, is_identity=YES_OR_NO),
    'kept': takes(2, dim=DIM),
    'repeat': takes(1, repeats=WHOLES),
    'pad': takes(1, pad=WHOLES),
    'rows': takes(1),
    'as_strided': takes(1, size=WHOLES, stride=WHOLES, offset=maybe(WHOLE)),
    'view_as_complex': takes(1),
    'view_as_real': takes(1),
    # joined and cut data
    'cat': takes(1, None, dim=DIM),
    'stack': takes(1, None, dim=DIM),
    'split': takes(1, dim=DIM),
    'unbind': takes(1, dim=DIM),
    'select': takes(1, dim=DIM, index=WHOLE),
    'slice': takes(1, dim=DIM, start=maybe(WHOLE), end=maybe(WHOLE), step=WHOLE),
    'index': takes(1, picked=DIMS, index_rank=WHOLE),
    'index_put': takes(2, picked=DIMS, index_rank=WHOLE, indices=SHAPE_LIST),
    'gather': takes(1, dim=DIM),
    'scatter': takes(1, 2, dim=DIM),
    'copy_slices': takes(1, None),
}


def parser_of(grad_fn: Any, name: str, parsers: Mapping[str, Any]) -> Callable[..., Any] | None:
    """The parser of a node, if there is one.

    ``class Roll(Function)`` of a user's makes nodes that are called as torch's own; it is not
    read as that. One of a package is found by both names, ``mmcv.RoIAlignFunctionBackward``.
    """
    plain = name.rstrip('0123456789')
    found = parsers.get(name) or parsers.get(plain)
    function = getattr(grad_fn, '_forward_cls', None)
    package = 'mmprune' if function is None else function.__module__.partition('.')[0]
    if package != 'mmprune' and PARSERS.get(name, PARSERS.get(plain)) is found:
        return parsers.get(f'{package}.{name}')
    return found


def parsed(grad_fn: Any, parser: Callable[[Any], Any], module: str) -> tuple[str, dict[str, Any]]:
    """What a parser reads of a node that was made in ``module``.

    A node whose saved tensors were written to since, which is allowed where a model needs no
    gradients, cannot be read.

    Raises:
        ParserError: It fails, or gives anything but an operation and a dict.
    """
    where = f'the parser of {grad_fn.name()} in {module or "the root module"}'
    try:
        found = parser(grad_fn)
    except Exception as error:  # whatever a parser of somebody's raises
        if 'modified by an inplace operation' in str(error):
            return 'opaque', {}
        raise ParserError(f'{where} failed: {type(error).__name__}: {error}') from error
    if isinstance(found, tuple) and len(found) == 2:
        op, attrs = found
        if isinstance(op, str) and isinstance(attrs, dict):
            return op, attrs
    raise ParserError(
        f'{where} must give an operation and a dict of its attributes, as '
        f"('elementwise', {{}}), and gave {found!r}"
    )


def check_operations(nodes: Iterable[TraceNode], shape_of: Callable[[Any], Shape]) -> None:
    """Compare traced nodes with the table.

    Args:
        nodes: As the parsers have read them.
        shape_of: The shape of an edge.

    Raises:
        ParserError: A node is not as the table says of its operation.
    """
    for node in nodes:
        row = OPERATIONS.get(node.op)
        if row is None:
            continue
        problem = row.problem(node, [shape_of(edge) for edge in node.inputs if edge is not None])
        if problem:
            raise ParserError(
                f"the parser of {node.where} reads it as the operation '{node.op}', but {problem}. "
                f'Mend the parser, or let it name another operation; the table is in {__name__}'
            )
