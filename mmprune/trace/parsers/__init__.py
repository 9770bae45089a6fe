"""Backward parsers: from one autograd node to one operation in mmprune's words.

The contract of a parser, the same for all of them:

    parser(grad_fn) -> (op, attrs)

``grad_fn`` is the autograd node; ``op`` names a channel rule; ``attrs`` is a dict of
plain numbers and tuples, dims wrapped to their signed value. The tracer adds inputs
and shapes by itself. ``attrs['buffer_tensors']`` may hold tensors that are buffers of
the model (running statistics); the tracer replaces them by their names under
``attrs['buffers']``. For example, for ``y = torch.cat([a, b], dim=-3)``:

    BACKWARD_PARSERS['CatBackward0'](y.grad_fn) == ('cat', {'dim': -3})

A parser is found by the node's full name, or by its name without trailing digits; that of an
``autograd.Function`` first by its package and its name (``mmcv.RoIAlignFunctionBackward``).
"""

from mmprune.registry import BACKWARD_PARSERS
from mmprune.trace.parsers import arithmetic, functions, layers, shapes

# mmprune's own, which are about torch's operations; others may be registered before and later.
PARSERS = {
    name: parser
    for name, parser in BACKWARD_PARSERS.module_dict.items()
    if parser.__module__.startswith(f'{__name__}.')
}

__all__ = ['PARSERS', 'arithmetic', 'functions', 'layers', 'shapes']
