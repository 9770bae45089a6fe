"""Run a model once on a road and read the autograd graph that the run leaves behind."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.parameter import is_lazy

from mmprune.errors import InputError
from mmprune.registry import BACKWARD_PARSERS, table
from mmprune.trace.averages import WrittenWeights
from mmprune.trace.calls import CallRecorder
from mmprune.trace.calls import tensors_in as tensors_in
from mmprune.trace.chance import without_chance
from mmprune.trace.eager import eagerly, interpreted
from mmprune.trace.escapes import EscapeRecorder
from mmprune.trace.joined import opaque_operations
from mmprune.trace.model_state import caching_modules, set_mode
from mmprune.trace.numbers import NumberLog, resolved
from mmprune.trace.operations import parsed, parser_of
from mmprune.trace.recipes import Recipe
from mmprune.trace.requiring_grad import constant_buffers, requiring_grad, running_statistics
from mmprune.trace.roads import DemoInput as DemoInput
from mmprune.trace.roads import Road, describe_input
from mmprune.trace.roads import run_model as run_model
from mmprune.trace.session import GradFn, RecipeOf, Session, topological
from mmprune.trace.stand_ins import ALL, FAITHFUL, StandIns
from mmprune.trace.trace_graph import Edge, ModuleCall, TraceGraph, TraceNode, UsedWeights
from mmprune.trace.training import noted_readers, train, who_differ
from mmprune.trace.walk import buffers_of, names_of_parameters, parameters_of
from mmprune.trace.weights import used_weights

UNREACHED = (
    'not part of the autograd graph of the outputs (never used on a road, or used in inference '
    'mode or by other code than torch)'
)


class TraceError(InputError):
    """The model could not be run, or its run left nothing to read."""


class _MissedLeavesError(Exception):
    """Buffers that the graph must show were no leaves of it; they are its argument."""


def trace_road(model: nn.Module, road: Road, session: Session) -> TraceGraph:
    """Trace one forward pass of ``model``, which is left as it was.

    The pass runs with gradients on; every parameter and every float input requires grad, so
    that the graph shows frozen layers too. In training nothing is left to chance.

    Args:
        model: Any module.
        road: How to run it. The batch size does not matter.
        session: What is known of the roads before.

    Raises:
        TraceError: The model fails on the road, or, on the first one, returns no tensor that
            depends on a parameter.
    """
    statistics = running_statistics(model)
    buffers = constant_buffers(model, statistics)
    # Some code wants no gradients where it says so: the last attempt shows why.
    attempts = [(ALL, buffers), (FAITHFUL, buffers)]
    for stand_ins, leaves in attempts + ([(ALL, {}), (FAITHFUL, {})] if buffers else []):
        while True:
            try:
                return _trace(model, road, leaves, session, stand_ins, statistics)
            except _MissedLeavesError as missed:
                leaves, statistics = {**leaves, **missed.args[0]}, {}
                continue
            except TraceError as error:
                failure, cause = error, error.__cause__
                if session.known and type(cause) is not RuntimeError:
                    raise  # the model's own refusal of a road that need not run
            # A buffer that is written to cannot require grad.
            fewer = {n: b for n, b in leaves.items() if not session.state.is_written(b)}
            if len(fewer) == len(leaves):
                break
            leaves = fewer
    raise failure


def _trace(
    model: nn.Module,
    road: Road,
    buffers: Mapping[str, torch.Tensor],
    session: Session,
    stand_ins: StandIns,
    statistics: Mapping[str, torch.Tensor],
) -> TraceGraph:
    """Trace with these buffers as leaves of the graph, and with stand-ins for some functions.

    Raises:
        _MissedLeavesError: Some of the ``statistics`` are read outside of norms.
    """
    # Inside inference mode nothing is recorded, whatever requires grad.
    with (
        torch.inference_mode(False), session.state.kept() as copies,
        requiring_grad(buffers.values()), session.calls.used(model, road.training) as made,
    ):  # fmt: skip
        set_mode(model, road.training)
        for module in () if road.training else caching_modules(model):
            module.training = True  # what it reads in eval mode hides its parameters
        _let_all_require_grad(model)
        demo_input, input_leaves = session.differentiable(road.input)
        recorder = CallRecorder(model)
        writes, log = WrittenWeights(model), NumberLog(lambda: recorder.stack[-1])
        recorder.token = log.token
        if road.training:
            stand_ins = {**writes.stand_ins, **stand_ins}
        escapes = EscapeRecorder(log.running, stand_ins, copies.note_write, log)
        escapes.awaited = {id(buffer): name for name, buffer in statistics.items()}
        with contextlib.ExitStack() as stack:
            for context in (
                warnings.catch_warnings(), torch.enable_grad(), eagerly(), interpreted(),
                log.installed(model, session.stored),
                without_chance() if road.training else contextlib.nullcontext(),
            ):  # fmt: skip
                stack.enter_context(context)
            readers = stack.enter_context(noted_readers())
            stack.enter_context(recorder)
            stack.enter_context(escapes)
            # Only here do numbers that a model gives to Python require grad.
            warnings.filterwarnings('ignore', message='Converting a tensor with requires_grad')
            warnings.filterwarnings('ignore', message='Using `torch.compile.* global hooks')
            outputs = _run(model, road, demo_input, recorder)
        if escapes.missed:
            raise _MissedLeavesError({name: statistics[name] for name in escapes.missed})
        found = tensors_in(outputs)
        for tensor in found:
            escapes.use(tensor)
        input_leaves = [*input_leaves, log.token]
        reader = _GraphReader(model, buffers, recorder, escapes, input_leaves, session)
        graph = reader.read(found, [t.grad_fn for t in writes.sums])
        session.calls.keep(made)
        session.order, session.recipe = list(reader.ids), reader.recipe
        if not road.training:
            session.readers |= who_differ(readers, recorder) | train(model)
        return graph


def _run(model: nn.Module, road: Road, demo_input: Any, recorder: CallRecorder) -> Any:
    """Run the model on this road; say in which module it failed."""
    try:
        return road.run(model, demo_input)
    except RecursionError as error:
        raise TraceError(
            f'{type(model).__name__}: modules are nested deeper than Python calls may be. '
            'sys.setrecursionlimit(10_000) allows it.'
        ) from error
    except Exception as error:
        raise TraceError(
            f'{type(model).__name__} cannot be run on {describe_input(demo_input)}: '
            f'{type(error).__name__}: {error}. It failed in module '
            f"'{recorder.stack[-1]}'. Give a demo_input, or --input-shape, that the model accepts."
        ) from error


def _let_all_require_grad(model: nn.Module) -> None:
    """Let every parameter require grad that can; refuse those that autograd will never see."""
    for name, parameter in parameters_of(model).items():
        if is_lazy(parameter):
            raise TraceError(
                f"parameter '{name}' of {type(model).__name__} has no shape yet: run the model "
                'once before it is prepared'
            )
        if parameter.is_inference():
            raise TraceError(
                f"parameter '{name}' of {type(model).__name__} was made in inference mode, and "
                'autograd does not record its use: build the model outside torch.inference_mode'
            )
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(True)


class _GraphReader:
    """Turns grad_fns into TraceNodes. Holds the grad_fns alive while it does."""

    def __init__(
        self,
        model: nn.Module,
        buffers: Mapping[str, torch.Tensor],
        recorder: CallRecorder,
        escapes: EscapeRecorder,
        input_leaves: Iterable[torch.Tensor],
        session: Session,
    ) -> None:
        self.session = session
        self.recorder = recorder
        self.escapes = escapes
        self.input_ids = {id(leaf) for leaf in input_leaves}
        named_parameters = names_of_parameters(model)
        self.names = {key: names for key, (_, names) in named_parameters.items()}
        self.parameter_shapes = {
            names[0]: tuple(parameter.shape) for parameter, names in named_parameters.values()
        }
        self.leaf_buffers = {id(buffer): name for name, buffer in buffers.items()}
        named = buffers_of(model)
        self.all_buffers = {id(buffer): name for name, buffer in named.items()}
        self.buffer_names = {(b.data_ptr(), b.shape): name for name, b in named.items()}
        self.parsers = table(BACKWARD_PARSERS)
        self.types: set[torch.dtype] = set()
        self.recipe = self._recipes()
        self.order: list[GradFn] = []
        self.ids: dict[GradFn, int] = {}

    def read(self, outputs: list[torch.Tensor], updates: list[GradFn]) -> TraceGraph:
        """Build the graph that ends in ``outputs``, and in what is written to parameters."""
        known, start = self.session.known, self.session.stop
        edges = [get_gradient_edge(t) for t in outputs if t.requires_grad]
        roots: list[GradFn] = [edge.node for edge in edges]
        order = topological(roots, known)
        behind_outputs = set(order)
        # What is computed and nobody uses must fit all the same.
        made = [t.grad_fn for _, _, given in self.recorder.calls for t in given]
        written_by = set(topological(updates, known))
        made += [node for node in self.escapes.joined if node not in written_by]
        unused = [node for node in made if node is not None and node not in behind_outputs]
        unused += self.escapes.numbers.nodes() if self.escapes.numbers else []
        escaped = [edge.node for edge, _ in self.escapes.escapes]
        roots += [node for node in escaped + unused if node not in behind_outputs]
        order = order if len(roots) == len(edges) else topological(roots, known)
        computed, order = set(order), topological(roots + updates, known) if updates else order
        self.order, self.ids = order, {g: start + index for index, g in enumerate(order)}
        nodes = tuple(self._read_node(grad_fn, grad_fn not in computed) for grad_fn in order)
        leaves = {
            node.attrs['name']: order[node.id - start] for node in nodes if node.op == 'parameter'
        }
        used = {
            name
            for name, leaf in leaves.items()
            if leaf in behind_outputs and name in self.parameter_shapes
        }
        if not used and not known:
            raise TraceError(
                'the output of the model does not depend on any of its parameters: there is '
                'nothing to trace. Does the forward pass run in inference mode, or leave torch?'
            )
        behind_unused = set(topological(unused + updates, known))
        found = used.union(name for name, leaf in leaves.items() if leaf in behind_unused)
        buffers = frozenset(leaves) - self.parameter_shapes.keys()
        # Those of later roads are found where all nodes are together.
        weights = UsedWeights() if known else used_weights(nodes, buffers, self._recipe_at(order))
        return TraceGraph(
            nodes=nodes,
            outputs=tuple(self._edge(edge.node, edge.output_nr) for edge in edges),
            parameters={
                node.attrs['name']: node.shapes[0] for node in nodes if node.op == 'parameter'
            },
            aliases={n[0]: tuple(n) for n in self.names.values() if len(n) > 1},
            unreached=dict.fromkeys(
                (n for n in self.parameter_shapes if n not in found), UNREACHED
            ),
            calls=tuple(self._calls(self.session.reached | set(leaves))),
            opaque=opaque_operations(nodes),
            escapes=tuple(
                (self._edge(edge.node, edge.output_nr), reason)
                for edge, reason in self.escapes.escapes
            ),
            handed=tuple(self._handed()),
            recomputing=tuple(self.recorder.recomputing),
            constants=tuple(self.recorder.constants),
            buffers=buffers,
            types=frozenset(self.types),
            weights=weights,
            **self._numbers(),
        )

    def _recipes(self) -> RecipeOf:
        """Tells how tensors of this road were computed; holds what was seen of that alone."""
        recipes = self.escapes.recipes
        names = {**self.all_buffers, **{key: names[0] for key, names in self.names.items()}}
        return lambda grad_fn, output: recipes.of((grad_fn, output), lambda t: names.get(id(t)))

    def _recipe_at(self, order: list[GradFn]) -> Callable[[Edge], Recipe | None]:
        return lambda edge: self.recipe(order[edge[0]], edge[1])

    def _numbers(self) -> dict[str, Any]:
        """What numbers were used for."""
        known = {g: node for g, (node, output) in self.session.known.items() if not output}
        log = self.escapes.numbers
        return {} if log is None else resolved(log, {**known, **self.ids})

    def _handed(self) -> Iterable[tuple[str, str]]:
        asked = self.escapes.numbers.asked_leaves() if self.escapes.numbers else ()
        for tensor, module in (*self.recorder.handed, *asked):
            names = self.names.get(id(tensor)) or [self.leaf_buffers.get(id(tensor), '')]
            if names[0]:
                yield names[0], module

    def _edge(self, grad_fn: GradFn, output: int) -> Edge:
        if grad_fn in self.session.known:
            node, place = self.session.known[grad_fn]
            return node, output if place is None else place
        return self.ids[grad_fn], output

    def _read_node(self, grad_fn: GradFn, is_update: bool) -> TraceNode:
        source = grad_fn.name().rpartition(':')[2]
        attrs: dict[str, Any] = {}
        if source == 'AccumulateGrad':
            variable = grad_fn.variable
            names = self.names.get(id(variable))
            shapes: tuple[tuple[int, ...], ...] = (tuple(variable.shape),)
            module = ''
            if names or id(variable) in self.leaf_buffers:
                name = names[0] if names else self.leaf_buffers[id(variable)]
                op, attrs = 'parameter', {'name': name}
            else:
                op = 'input' if id(variable) in self.input_ids else 'opaque'
        else:
            shapes = tuple(tuple(m.shape) for m in grad_fn._input_metadata)
            self.types.update(m.dtype for m in grad_fn._input_metadata)
            module = self.recorder.module_at(grad_fn._sequence_nr())
            op, attrs = self._parse(source, grad_fn, module)
            constants = self.escapes.constants_at(grad_fn._sequence_nr())
            if constants:
                attrs['constant_shapes'] = constants
            if is_update:
                attrs['is_update'] = True
            if op == 'copy_slices':
                attrs['written'] = self.escapes.writes.at(grad_fn._sequence_nr())
        return TraceNode(
            id=self.ids[grad_fn],
            op=op,
            inputs=tuple(
                None if parent is None else self._edge(parent, output)
                for parent, output in grad_fn.next_functions
            ),
            shapes=shapes,
            attrs=attrs,
            source=source,
            module=module,
        )

    def _parse(self, source: str, grad_fn: GradFn, module: str) -> tuple[str, dict[str, Any]]:
        parser = parser_of(grad_fn, source, self.parsers)
        if parser is None:
            return 'opaque', {}
        op, attrs = parsed(grad_fn, parser, module)
        buffers = attrs.pop('buffer_tensors', ())
        names = [self.buffer_names.get((b.data_ptr(), b.shape)) for b in buffers]
        if names:
            attrs['buffers'] = tuple(name for name in names if name is not None)
        return op, attrs

    def _calls(self, reached: set[str]) -> Iterable[ModuleCall]:
        def edges(tensors: list[torch.Tensor]) -> tuple[Edge, ...]:
            made = [(t.grad_fn, t.output_nr) for t in tensors]
            return tuple([self._edge(*key) for key in made if key[0] in ids or key[0] in known])

        ids, known = self.ids, self.session.known
        owners: dict[str, bool] = {}
        for name in self.parameter_shapes:
            owner, is_reached = name, name in reached
            while owner:
                owner = owner.rpartition('.')[0]
                if owners.get(owner, False) >= is_reached and owner in owners:
                    break  # and so is what it is in
                owners[owner] = is_reached
        calls = zip(self.recorder.calls, self.recorder.callers, strict=True)
        for (name, inputs, outputs), caller in calls:
            unreached = not owners.get(name, True)
            yield ModuleCall(name, caller, edges(inputs), edges(outputs), unreached)
