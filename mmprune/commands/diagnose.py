"""What tools/diagnose.py does."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import track
from torch import nn

from mmprune.checkpoint import check_fit, read_checkpoint
from mmprune.commands.configured_input import SUPERNETS, input_of
from mmprune.config import files_of, load_config, work_dir_of
from mmprune.datafiles import write_data
from mmprune.deploy import VerifyReport
from mmprune.errors import InputError
from mmprune.execution import MASK_NAMES
from mmprune.execution.observed_run import observed_run
from mmprune.fileio import check_outputs, write_text
from mmprune.models.algorithm import build_model
from mmprune.models.demo_inputs import ConfiguredInput
from mmprune.pruners import StructurePruner
from mmprune.randomness import seeded, stir
from mmprune.registry import PRUNERS
from mmprune.report.diagnosis import Diagnosis, Problem, Verified
from mmprune.report.findings import find
from mmprune.report.picture import draw_groups
from mmprune.report.tables import wide_console
from mmprune.supernet.trial import random_alive
from mmprune.trace import TraceError
from mmprune.trace.model_state import untouched
from mmprune.trace.roads import DemoInput, Road, as_road
from mmprune.trace.tracer import tensors_in
from mmprune.wrappers import unwrap

DEFAULT_PRUNER = dict(type='RatioPruner', ratios=[0.5])
FILES = ('report.txt', 'report.json', 'groups.svg')


def diagnose(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str] | None = None,
    out_dir: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int] | None = None,
    subnets: int = 3,
    seed: int = 0,
    cfg_options: dict[str, Any] | None = None,
) -> Diagnosis:
    """Say what of a config's network can be pruned, prove it, and write that down.

    Writes ``report.txt``, ``report.json`` and, if the network can be prepared,
    ``groups.svg``; prints the report without the groups' members.

    Args:
        config: Any config with a ``model``. If that is an AutoSlim, its network and its
            pruner are looked at; else the settings of ``pruner`` in the config, if any.
        checkpoint: Weights, of the network or of a supernet; random ones if None.
        out_dir: Where the files go; by default ``work_dirs/<config>/diagnosis``.
        input_shape: (N, C, H, W) or (C, H, W); by default the AutoSlim's, or the first
            test image's.
        subnets: How many random subnets are verified.
        seed: Of the weights, the input and the subnets.
        cfg_options: Values to set in the config, by dotted key.

    Raises:
        InputError: The config or the checkpoint cannot be used. What is wrong with the
            network itself is in the diagnosis.
    """
    cfg = load_config(config, cfg_options)
    if subnets < 1:
        raise InputError(f'at least 1 subnet must be verified, not {subnets}')
    folder = Path(out_dir or work_dir_of(cfg) / 'diagnosis')
    check_outputs([folder / name for name in FILES], inputs=files_of(cfg, checkpoint))
    with seeded(seed):
        network, pruner = network_and_pruner(cfg)
    weights = _load(network, checkpoint, seed)
    given = input_of(cfg, network, input_shape)
    found = Diagnosis(str(cfg.filename), type(network).__name__, '', weights)
    found = _examine(found, network, pruner, given, subnets, seed)
    written = _write(found, pruner, folder)
    wide_console().print(found.text(members=False), markup=False, highlight=False, soft_wrap=True)
    print(f'written: {", ".join(map(str, written))}')
    return found


def network_and_pruner(cfg: Config) -> tuple[nn.Module, StructurePruner]:
    """The plain network of a config, and its pruner."""
    if not cfg.get('model'):
        raise InputError(f'{cfg.filename}: there is nothing to diagnose: the config has no model')
    plain = deepcopy(cfg)
    own = cfg.get('pruner', {})
    settings: dict[str, Any] = {**({} if 'type' in own else DEFAULT_PRUNER), **own}
    if cfg.model.get('type') in SUPERNETS:
        plain.model = deepcopy(cfg.model.architecture)
        settings = dict(cfg.model.pruner)
    try:
        network = unwrap(build_model(plain))
        pruner = PRUNERS.build({'_scope_': 'mmprune', **settings})
    except InputError:
        raise
    except Exception as error:  # whatever the constructor of a user's module raises
        raise InputError(
            f'{cfg.filename}: the network or its pruner cannot be built: '
            f'{type(error).__name__}: {error}'
        ) from error
    return network.eval(), pruner


def _load(network: nn.Module, checkpoint: str | os.PathLike[str] | None, seed: int) -> str:
    """Give a network a checkpoint's weights, or random ones; say which."""
    if checkpoint is None:
        with seeded(seed):
            stir(network)
        return f'as the config builds them, norms and biases drawn anew (seed {seed})'
    prefix = 'architecture.'
    state = read_checkpoint(checkpoint)['state_dict']
    if any(key.startswith(prefix) for key in state):
        state = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix) and not key.endswith(MASK_NAMES)
        }
    check_fit(network, state, checkpoint)
    network.load_state_dict(state, strict=False)
    return str(checkpoint)


def _examine(
    found: Diagnosis,
    network: nn.Module,
    pruner: StructurePruner,
    given: ConfiguredInput,
    subnets: int,
    seed: int,
) -> Diagnosis:
    """Run, prepare, and verify; whatever fails is the diagnosis."""
    shape = 'x'.join(map(str, given.images.shape))
    # Float64 tells rounding from a fault; what cannot run in it is looked at in float32.
    network = network.double()
    try:
        roads = given.roads(network)
    except Exception as error:  # whatever makes the input of a user's model raises
        message = f'its input cannot be made: {type(error).__name__}: {error}'
        return replace(found, problem=Problem('run', message))
    _, recorder, failure = observed_run(network, roads[0])
    if failure:
        network = network.float()
        roads = given.roads(network)
        _, recorder, failure = observed_run(network, roads[0])
    kind = str(roads[0].images.dtype)[6:]
    found = replace(found, input=f'{shape} of uniform noise, {kind}')
    if failure:
        where = recorder.running[-1] if recorder.running else ''
        message = f'{failure}. If the input does not suit the network, give --input-shape.'
        return replace(found, problem=Problem('run', message, _place(network, where)))
    try:
        pruner.prepare_from_supernet(network, demo_input=roads)
    except TraceError as error:
        end = where_gradients_end(network, roads[0])
        place = '' if end is None else _place(network, end)
        return replace(found, problem=Problem('trace', str(error), place))
    except InputError as error:
        return replace(found, problem=Problem('prepare', str(error)))
    except Exception as error:  # a diagnosis is wanted of these most of all
        message, details = f'{type(error).__name__}: {error}', traceback.format_exc()
        return replace(found, problem=Problem('mmprune', message, details=details))
    found = replace(found, findings=find(pruner.supernet))
    if not found.is_prunable:
        return found
    return replace(found, verified=tuple(_verify(pruner, subnets, seed)))


def _verify(pruner: StructurePruner, subnets: int, seed: int) -> Iterable[Verified]:
    """Random subnets of any channels, other ones than preparing has tried."""
    supernet = pruner.supernet
    full = supernet.cost_model.params(random_alive({}, supernet.size, 0))
    console = Console(stderr=True)
    numbers = range(1, subnets + 1)
    for number in track(numbers, 'verifying', console=console, disable=not console.is_terminal):
        alive = random_alive(supernet.groups, supernet.size, seed * 1000 + number)
        subnet = supernet.subnet_of(alive)
        try:
            share = supernet.cost_model.params(alive) / max(full, 1)
            report = pruner.verify_subnet(subnet=subnet)
        except Exception as error:  # a subnet that cannot even be set or deployed
            problem = f'{type(error).__name__}: {error}'
            share, report = 1.0, VerifyReport(False, float('inf'), 0.0, '', problem)
        yield Verified(f'subnet {number}', share, report)


def _place(network: nn.Module, name: str) -> str:
    kind = type(network.get_submodule(name)).__name__
    return f'{name or "the root module"} ({kind})'


def _write(found: Diagnosis, pruner: StructurePruner, folder: Path) -> list[Path]:
    """Write the report, and the picture if there is anything to draw; return the files."""
    text, data, picture = (folder / n for n in FILES)
    write_text(found.text(), text)
    write_data(found.as_dict(), data)
    if found.findings is None:
        picture.unlink(missing_ok=True)  # of an earlier diagnosis
        return [text, data]
    title = f'{Path(found.config).stem}: {found.model}'
    draw_groups(pruner.supernet, picture, title, found.findings)
    return [text, data, picture]


def where_gradients_end(model: nn.Module, demo_input: DemoInput | Road) -> str | None:
    """Name of the first module whose outputs have lost the gradients of what went in.

    That is a module with parameters, or with an input that requires grad, none of whose
    outputs does: it runs under ``torch.no_grad``, detaches its result, or leaves torch.

    Returns:
        The module's name ('' for the root), or None if there is none, or the model fails.
    """
    names = {module: name for name, module in model.named_modules()}
    found: list[str] = []

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        floats = [t for t in tensors_in(output) if t.is_floating_point()]
        begins = any(t.requires_grad for t in (*tensors_in(args), *module.parameters()))
        if begins and floats and not any(t.requires_grad for t in floats):
            found.append(names[module])

    with untouched(model), torch.enable_grad():
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        handles = [module.register_forward_hook(leave) for module in names]
        try:
            as_road(demo_input).run(model)
        except Exception:  # whatever a user's model raises: its failure is told elsewhere
            return None
        finally:
            for handle in handles:
                handle.remove()
    return found[0] if found else None
