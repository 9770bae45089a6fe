"""The files of a deployed network: checkpoint, config, channel config, ONNX."""

import hashlib
import os
import re
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from mmprune.checkpoint import read_checkpoint, write_checkpoint
from mmprune.config import files_of, load_config
from mmprune.deploy import VerifyReport
from mmprune.deploy.channel_cfg import digest_of, save_channel_cfg
from mmprune.deploy.onnx_contract import describe_onnx
from mmprune.deploy.onnx_export import check_onnx, export_onnx
from mmprune.errors import InputError, UnwritableError
from mmprune.execution import MASK_NAMES
from mmprune.fileio import atomic_folder, check_outputs, no_file, write_text
from mmprune.models import AutoSlim
from mmprune.models.algorithm import build_model, full_and_set_cost
from mmprune.models.demo_inputs import exported
from mmprune.models.deployed import DIGEST_KEY
from mmprune.randomness import seeded
from mmprune.registry import HOOKS
from mmprune.report.tables import before_and_after_table, show
from mmprune.training.compensation import Change
from mmprune.training.pruner_hook import PrunerHook
from mmprune.version import __version__
from mmprune.weights import digest_of_weights

# Settings that belong to the supernet and mean nothing to a plain network.
_SUPERNET_SETTINGS = ('search_cfg', 'prune_cfg', 'model_wrapper_cfg', 'find_unused_parameters')
_CONFIG_HEADER = """# A subnet as a plain network, deployed by mmprune from {name}.
# Testing and training start from the checkpoint beside this file; the folder can be moved.
"""
_TRAINED_HEADER = """# The small network that mmprune deployed while {name} was trained.
# The checkpoints beside this file fit it from then on; the folder can be moved.
"""


class VerificationError(InputError):
    """The deployed network does not compute what the supernet computes."""


@dataclass(frozen=True)
class DeployedFiles:
    """What deploying a subnet has written.

    Attributes:
        checkpoint: The plain network's weights, under its own names.
        config: Builds the plain network, loads ``checkpoint``, and trains or tests it.
        channel_cfg: The channel config that ``config`` refers to.
        onnx: The network in evaluation mode, if it was asked for.
        verified: The report of the comparison with the supernet.
    """

    checkpoint: Path
    config: Path
    channel_cfg: Path
    onnx: Path | None
    verified: VerifyReport


def write_deployed(
    algorithm: AutoSlim,
    cfg: Config,
    folder: Path,
    source: str,
    onnx: bool,
    onnx_batch: int | None = None,
    change: Change | None = None,
) -> DeployedFiles:
    """Verify the subnet that is set, and write it as a plain network; all files appear at once.

    Args:
        algorithm: The supernet, with norm statistics of the subnet's own.
        cfg: Its config.
        folder: Where the files go.
        source: What the subnet is called in messages: its channel config's file, say.
        onnx: Write ``deployed.onnx`` too, checked by onnxruntime.
        onnx_batch: The only batch size that it takes, in which case it is written; any if None.
        change: Compensates the plain network in place, after it was verified.

    Raises:
        VerificationError: If the plain network, or its ONNX file, computes something else.
    """
    network, verified = verified_network(algorithm, source)
    layers = algorithm.pruner.export_subnet()
    if change is not None:
        print_log(f'{source}: {change(network)}', logger='current')

    names = _names(onnx or onnx_batch is not None)
    full, kept = full_and_set_cost(algorithm)
    text = _config_text(_CONFIG_HEADER, source, plain_config(cfg), layers, loads='deployed.pth')
    channels = digest_of(layers)
    both = text + digest_of_weights(network.state_dict())
    digest = f'{channels}-{hashlib.sha256(both.encode()).hexdigest()[:16]}'
    text = text.replace(channels, digest)
    weights = {
        'meta': {'mmprune_version': __version__, DIGEST_KEY: digest, **kept},
        'state_dict': network.state_dict(),
    }
    with atomic_folder(folder, apart='deployed.onnx') as unfinished:
        checkpoint, config, channel_cfg, *onnx_paths = (unfinished / name for name in names)
        for path in onnx_paths:
            road = exported(network, algorithm.roads[0])
            error = export_onnx(network, road, path, onnx_batch)
            contract = describe_onnx(path, network, road)
            contract['onnxruntime'] = f'computes what torch does, relative error {error:.1e}'
        write_checkpoint(weights, checkpoint)
        save_channel_cfg(layers, channel_cfg)
        write_text(text, config)
        check_rebuilds(config, checkpoint, network)
    checkpoint, config, channel_cfg, *onnx_paths = (folder / name for name in names)
    files = DeployedFiles(checkpoint, config, channel_cfg, next(iter(onnx_paths), None), verified)

    sizes = weights_size(algorithm.architecture), files.checkpoint.stat().st_size
    rows = {
        'MACs': (full['macs'], kept['macs']),
        'parameters': (full['params'], kept['params']),
        'file of weights, bytes': sizes,
    }
    show(before_and_after_table(f'Deployed and verified: {folder}', rows))
    if files.onnx is not None:
        print(
            '\n'.join([f'{files.onnx}:', *(f'  {key}: {text}' for key, text in contract.items())])
        )
    return files


def verified_network(
    algorithm: AutoSlim, channel_cfg: str | os.PathLike[str]
) -> tuple[nn.Module, VerifyReport]:
    """Return the plain network of the subnet that is set, in eval mode, and the proof.

    Raises:
        VerificationError: If it does not compute what the supernet computes.
    """
    pruner, supernet = algorithm.pruner, algorithm.architecture.eval()
    report = pruner.verify_subnet(supernet, pruner.current_subnet())
    if not report.ok:
        raise VerificationError(
            f'{channel_cfg}: nothing was written, because the deployed network would not compute '
            f'what the supernet computes. {report}'
        )
    return pruner.deploy_subnet(supernet, pruner.export_subnet()).eval(), report


def plain_config(cfg: Config) -> Config:
    """Return the config without what belongs to the supernet or to pruning, for the plain network.

    ``model.channel_cfg`` and ``load_from`` are left to be filled in.

    Args:
        cfg: Its model is an AutoSlim, or the full network itself.
    """
    plain = deepcopy(cfg)
    for key in _SUPERNET_SETTINGS:
        plain.pop(key, None)
    if plain.model.get('demo_input'):
        plain.demo_input = dict(plain.model.demo_input)
        plain.demo_input.setdefault('input_shape', plain.model.get('input_shape'))
    full = plain.model.get('architecture', plain.model)
    plain.model = dict(type='mmprune.DeployedModel', model=full, channel_cfg=None)
    if plain.get('custom_hooks'):
        plain.custom_hooks = [hook for hook in plain.custom_hooks if not _prunes(hook)]
    plain.load_from, plain.resume = None, False
    plain.pop('work_dir', None)
    return plain


def _prunes(hook: Any) -> bool:
    """Whether a hook, or its config, is of pruning."""
    kind = hook.get('type') if isinstance(hook, dict) else type(hook)
    found = HOOKS.get(kind) if isinstance(kind, str) else kind
    return isinstance(found, type) and issubclass(found, PrunerHook)


def write_deployed_config(
    cfg: Config, path: Path, layers: dict[str, Any], network: nn.Module
) -> None:
    """Write a channel config, and beside it a config that builds the small network.

    For the checkpoints of a training that goes on with the small network; none of them is loaded
    by the config itself.

    Args:
        cfg: The training's config; without a file that it came from, only the channel
            config is written.
        path: Where the config goes; the channel config is ``channel_cfg.yaml`` beside it.
        layers: The channel config.
        network: The small network.

    Raises:
        VerificationError: If the config builds another network.
    """
    with atomic_folder(path.parent) as unfinished:
        save_channel_cfg(layers, unfinished / 'channel_cfg.yaml')
        if cfg.filename:
            text = _config_text(_TRAINED_HEADER, cfg.filename, plain_config(cfg), layers)
            write_text(text, unfinished / path.name)
            check_rebuilds(unfinished / path.name, None, network)


def check_rebuilds(config: Path, checkpoint: Path | None, network: nn.Module) -> None:
    """Build what a deployed config describes, and load the deployed network's weights into it.

    Args:
        config: The file, with its channel config beside it.
        checkpoint: The file of the weights; those of ``network`` if None.
        network: The deployed network.

    Raises:
        VerificationError: It cannot be built, or the weights do not fit or are others.
    """
    try:
        with seeded(0):
            rebuilt = build_model(load_config(config))
        own = network.state_dict()
        weights = own if checkpoint is None else read_checkpoint(checkpoint)['state_dict']
        rebuilt.load_state_dict(weights)
    except (InputError, RuntimeError) as error:
        raise VerificationError(
            f'nothing was written, because the files would not build the network: {error}'
        ) from error


def check_place(
    folder: Path,
    cfg: Config,
    checkpoint: str | os.PathLike[str],
    onnx: bool,
    channel_cfg: str | os.PathLike[str] | None = None,
) -> None:
    """Refuse a folder that a deployed network cannot be written to, before it is computed.

    Args:
        folder: For the files.
        cfg: What is deployed, read from other files than those.
        checkpoint: Its weights.
        onnx: Whether ``deployed.onnx`` is written.
        channel_cfg: The file of the subnet's channels, if there is one.

    Raises:
        InputError: Nothing can be written there, or a config there could not be read; or what
            writes ONNX is not installed.
    """
    if onnx:
        check_onnx()
    size = 0 if no_file(checkpoint) else Path(checkpoint).expanduser().stat().st_size
    files = [folder / name for name in _names(onnx)]
    check_outputs(files, size=size, inputs=files_of(cfg, checkpoint, channel_cfg))
    path = Path(os.path.abspath(folder)).as_posix()
    if any(part in path for part in ('\\', '\r', '"""', '{{', '}}')):
        raise UnwritableError(
            f'{str(folder)!r}: a config in a folder with a backslash, a carriage return, three '
            'quotes or double braces in its name cannot be read: name another.'
        )


def _names(onnx: bool) -> list[str]:
    """The files of a deployed network, in the order of :class:`DeployedFiles`."""
    return ['deployed.pth', 'deployed.py', 'channel_cfg.yaml', *(['deployed.onnx'] * onnx)]


def _config_text(
    header: str, source: str, plain: Config, layers: dict[str, Any], loads: str = ''
) -> str:
    """The deployed config, whose files are found beside it, whatever the folder is called."""
    plain.model.channel_cfg = _beside_config('channel_cfg.yaml')
    plain.model.digest = digest_of(layers)
    plain.load_from = _beside_config(loads) if loads else None
    # A line break in a comment would end it.
    name = re.sub(r'[^\w. -]', '_', Path(source).name)
    text = header.format(name=name) + plain.pretty_text
    # mmengine puts the folder in as it is, quotes and all.
    return re.sub(r"'(\{\{ fileDirname \}\}/[\w.]+)'", r'r"""\1"""', text)


def weights_size(supernet: nn.Module) -> int:
    """Return how many bytes the full network's weights take in a file, without the masks."""
    state = supernet.state_dict()
    plain = {key: value for key, value in state.items() if not key.endswith(MASK_NAMES)}
    buffer = BytesIO()
    torch.save({'state_dict': plain}, buffer)
    return buffer.tell()


def _beside_config(name: str) -> str:
    """Return a path that mmengine resolves to the folder of the config that says it."""
    return '{{ fileDirname }}/' + name
