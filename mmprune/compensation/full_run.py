"""One run of the full network over the images: what its layers give, and where constants may go."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mmprune.compensation.calls import LayerCall, features_of
from mmprune.compensation.methods import Compensation
from mmprune.compensation.units import Place, Target, Unit, Use, by_tensor
from mmprune.compensation.watch import Observer, Watch, tensors_among
from mmprune.execution.fast_paths import plain_paths
from mmprune.trace.eager import eagerly
from mmprune.trace.model_state import untouched
from mmprune.trace.tracer import tensors_in

MOST_NUMBERS = 2**25
"""How many numbers a layer's features may be at all of its positions."""
RECURRENT = {
    *('lstm', 'gru', 'rnn_tanh', 'rnn_relu'),
    *('lstm_cell', 'gru_cell', 'rnn_tanh_cell', 'rnn_relu_cell'),
}
_PRODUCTS = {'matmul', '__matmul__', '__rmatmul__', 'mm', 'bmm', 'addmm', 'baddbmm', 'einsum'}
_TURNS = {'t', 'transpose', 'permute'}
MIXING = {'tensordot', 'bilinear', 'multi_head_attention_forward', *_PRODUCTS, *_TURNS, *RECURRENT}
"""Functions that add up inputs by a weight, or make it ready for one."""
HARMLESS = {
    *('dim', 'ndimension', 'size', 'stride', 'numel', 'nelement', 'element_size', '__len__'),
    *('is_contiguous', 'is_floating_point', 'is_complex', 'get_device', 'data_ptr', 'type'),
    *('to', 'contiguous', 'type_as'),
}
"""Functions that look at no number of a tensor, or give the tensor itself."""
_TURNING = [getattr(torch.Tensor, name).__get__ for name in ('T', 'mT', 'H', 'mH')]
_BATCH_NORM: dict[Any, str] = {0: 'input', 1: 'running_mean', 5: 'training'}


@dataclass
class _Given:
    """Who reads what a call has given."""

    unit: Unit
    use: Use
    output: weakref.ref
    norms: list[str | None] = field(default_factory=list)


class FullRun(Observer):
    """Watches the full network.

    Args:
        full: The network.
        units: The weights to watch; targets and places are put into them.
        method: What they are watched for.
        batches: How many there will be.
    """

    def __init__(
        self, full: nn.Module, units: Sequence[Unit], method: Compensation, batches: int
    ) -> None:
        self.full, self.samples, self.follow = full, method.samples, method.follow
        self.batches = batches
        self.has_lost = False
        self.by_weight = by_tensor(list(units), 'full')
        self.names = {id(t): n for n, t in [*full.named_parameters(), *full.named_buffers()]}
        self.generator = torch.Generator().manual_seed(method.seed)
        self.batch = -1
        self.order: list[Unit] = []
        self.uses: Counter[Unit] = Counter()
        self.given: dict[int, _Given] = {}
        # Who reads a bias, or whose outputs a running mean is subtracted from; None: others too.
        self.readers: dict[str, set[Unit | None]] = {}
        # What else reads a weight -> whether it mixes channels by it.
        self.others: dict[Unit, dict[str, bool]] = {}
        self.found: list[tuple[Unit, Use, str | None, _Given | None]] = []

    def run(self, jobs: Sequence[Callable[[nn.Module], Any]], tick: Callable[[], Any]) -> None:
        """Run the network over all batches; it is left as it was.

        Args:
            jobs: Each runs a model on one batch.
            tick: Called after each.
        """
        with untouched(self.full, {}), torch.no_grad(), plain_paths(), eagerly():
            self.full.eval()
            for self.batch, job in enumerate(jobs):
                self.uses.clear()
                self.given.clear()
                with Watch(self):
                    output = job(self.full)
                for tensor in tensors_in(output):
                    if (given := self._giver(tensor)) is not None:
                        given.norms.append(None)
                tick()
        self._place()

    def before(self, call: LayerCall) -> None:
        """See ``Observer``."""
        unit = self.by_weight.get(id(call.weight))
        self._note([call.input, call.weight])
        if (name := self.names.get(id(call.bias))) is not None:
            self.readers.setdefault(name, set()).add(unit)
        elif call.bias is not None:
            self._note([call.bias])

    def after(self, call: LayerCall, output: torch.Tensor) -> None:
        """See ``Observer``."""
        unit = self.by_weight.get(id(call.weight))
        if unit is None:
            return
        if not unit.kind:
            self.order.append(unit)
        unit.called(call.kind, call.groups, self.has_lost and self.follow)
        self.has_lost |= unit.loses_inputs
        use = self.batch, self.uses[unit]
        self.uses[unit] += 1
        if not unit.is_watched or unit.left:
            return
        count = call.positions(output.shape)
        features = features_of(unit.small, call.kind, call.groups) * call.groups
        share = max(1, min(self.samples, MOST_NUMBERS // features) // self.batches)
        positions = torch.randperm(count, generator=self.generator)[:share]
        outputs = torch.from_numpy(unit.outputs).to(output.device)
        values = call.outputs_at(output, positions).index_select(1, outputs)
        unit.targets[use] = Target(positions, values, count)
        given = None
        if call.bias is None:
            given = self.given[id(output)] = _Given(unit, use, weakref.ref(output))
        self.found.append((unit, use, self.names.get(id(call.bias)), given))

    def read(self, function: Callable[..., Any], arguments: Mapping[Any, Any]) -> None:
        """See ``Observer``."""
        name = getattr(function, '__name__', '')
        if name in HARMLESS or (name == '__get__' and function not in _TURNING):
            return
        if function is F.batch_norm:
            named = [_BATCH_NORM.get(key, key) for key in arguments]
            arguments = dict(zip(named, arguments.values(), strict=True))
            self._norm(arguments)
            arguments = {k: v for k, v in arguments.items() if k not in ('input', 'running_mean')}
        for tensor in self._note(arguments.values()):
            unit = self.by_weight.get(id(tensor))
            if unit is None or (name in RECURRENT and unit.cut.shape[1] == unit.full.shape[1]):
                continue
            mixes = name in MIXING or name == '__get__'
            self.has_lost |= mixes and not unit.cut.is_whole
            self.others.setdefault(unit, {}).setdefault(name.replace('__get__', 'T'), mixes)

    def _note(self, args: Iterable[Any]) -> list[torch.Tensor]:
        """Note that tensors are read by something that is no batch norm."""
        tensors = list(tensors_among(args))
        for tensor in tensors:
            if (given := self._giver(tensor)) is not None:
                given.norms.append(None)
            if (name := self.names.get(id(tensor))) is not None:
                self.readers.setdefault(name, set()).add(None)
        return tensors

    def _norm(self, given: Mapping[Any, Any]) -> None:
        mean = self.names.get(id(given.get('running_mean')))
        giver = self._giver(given['input'])
        if giver is not None:
            giver.norms.append(None if given.get('training') else mean)
        if mean is not None:
            self.readers.setdefault(mean, set()).add(None if giver is None else giver.unit)

    def _giver(self, tensor: torch.Tensor) -> _Given | None:
        given = self.given.get(id(tensor))
        return given if given is not None and given.output() is tensor else None

    def _place(self) -> None:
        """Where constants may go: where nothing else would get them."""
        for unit, use, bias, given in self.found:
            place = None if bias is None else Place(bias)
            if given is not None and len(given.norms) == 1 and given.norms[0] is not None:
                place = Place(given.norms[0], -1)
            is_own = place is not None and self.readers[place.name] == {unit}
            unit.places[use] = place if is_own else None
        for unit, functions in self.others.items():
            # A weight that no linear function reads may be no weight: a scale, a position.
            reading = [name for name, mixes in functions.items() if mixes or unit.kind]
            if reading:
                unit.left = unit.left or f'its weight is read by {reading[0]}'
        for unit in self.order:
            _thin(unit, self.samples)


def _thin(unit: Unit, samples: int) -> None:
    """Keep no more positions than were asked for, of a unit that is used several times."""
    total = sum(len(target.positions) for target in unit.targets.values())
    if total > samples and not unit.is_used_once:
        for use, target in unit.targets.items():
            most = max(1, len(target.positions) * samples // total)
            unit.targets[use] = Target(
                target.positions[:most], target.values[:most].clone(), target.count
            )
