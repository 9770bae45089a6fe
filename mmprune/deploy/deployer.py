"""Cut a plain, smaller network out of a model by a channel config."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from mmprune.channels.constraints import BoolArray
from mmprune.deploy.entries import (
    FORMAT_KEY,
    ChannelCfg,
    ChannelCfgError,
    entry_mask,
    tensor_mask,
    turned_index,
)
from mmprune.deploy.parts import Cuts, parts_of
from mmprune.deploy.shortcuts import checked_shortcut, sample_shortcut
from mmprune.execution import local_tensors, plain_copy, release
from mmprune.execution.instrument import STATE
from mmprune.layers import (
    PLACES,
    Cut,
    cut_of_masks,
    keep_outputs,
    known_masks,
    like,
    may_be_size,
    mended_attributes,
    outputs_kept,
    plain_cut,
    put_back,
    renew_computed_weights,
    turned_cuts,
    weight_shape,
)
from mmprune.trace.kinds import CONVS, NORMS, TRANSPOSED_CONVS
from mmprune.trace.model_state import renew_caches
from mmprune.trace.stored import store, stored
from mmprune.trace.walk import modules_of


@dataclass
class _ModulePlan:
    """What one module becomes: the cuts of its tensors, its number of channels."""

    cuts: dict[str, Cut] = field(default_factory=dict)
    channels: int | None = None
    inputs: int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    shortcut: list[int] | None = None


def deploy(model: nn.Module, cfg: ChannelCfg) -> nn.Module:
    """A new plain network with the channels that ``cfg`` keeps; ``model`` stays as it is.

    Args:
        model: The network that the config was made for: a supernet or the plain original.
        cfg: A channel config. Layers that mmprune's own format does not name stay whole;
            one of MMRazor 0.x names all.

    Returns:
        A network of the same classes whose tensors have storage of their own.

    Raises:
        ChannelCfgError: The config does not fit the model.
    """
    with _outputs_kept(model, cfg):
        plans = _plans(model, cfg)
        copied = plain_copy(model, parts_of(model, _cuts(model, plans), cfg.error))
    _mend(copied, plans)
    return copied


@contextlib.contextmanager
def _outputs_kept(model: nn.Module, cfg: ChannelCfg) -> Iterator[None]:
    """Context in which modules stand in those that pick of their outputs, as a config wants it."""
    wanted = {
        name: (int(along[1]), part['raw'])
        for name, entry in cfg.layers().items()
        for local, parts in entry.get('tensors', {}).items()
        if (along := PLACES.fullmatch(local))
        for part in parts.values()
    }
    before = outputs_kept(model)
    keep_outputs(model, wanted)
    try:
        yield
    finally:
        now = outputs_kept(model).items()
        put_back(model, {name: own.module for name, own in now if name not in before})


@dataclass(frozen=True)
class Replaced:
    """A tensor of a network that was deployed in place.

    Attributes:
        old: The full tensor, which the network holds no more.
        new: The tensor in its place, with storage of its own.
        cut: How the one was cut from the other; tensors that belong to the old one, such
            as an optimizer's momentum, are cut in the same way.
    """

    old: torch.Tensor
    new: torch.Tensor
    cut: Cut


def deploy_in_place(model: nn.Module, cfg: ChannelCfg) -> list[Replaced]:
    """Make ``model`` itself the plain network with the channels that ``cfg`` keeps.

    Modules stay the objects that they are, with their hooks; parameters and buffers that lose
    something are replaced by new ones. The model is a supernet no longer.

    Args:
        model: The network that the config was made for: a supernet or the plain original.
        cfg: A channel config, as ``deploy`` takes it.

    Returns:
        What was replaced. Whoever holds one of the old tensors must take the new one.

    Raises:
        ChannelCfgError: The config does not fit the model; nothing is changed.
    """
    with _outputs_kept(model, cfg):
        plans = _plans(model, cfg)
        by_module = _cuts(model, plans)
        cuts: dict[int, Cut] = {}
        for module, own_cuts in by_module.items():
            own = local_tensors(module)
            cuts.update((id(own[n]), cut) for n, cut in own_cuts.items() if not cut.is_whole)
        parts = parts_of(model, by_module, cfg.error)
        kept = outputs_kept(model)
    release(model)
    put_back(model, kept)
    replaced: dict[int, Replaced] = {}
    for module in modules_of(model).values():
        for tensors in (module._parameters, module._buffers):
            for local, tensor in tensors.items():
                if tensor is not None and id(tensor) in cuts:
                    new = tensors[local] = parts[id(tensor)]
                    replaced[id(tensor)] = Replaced(tensor, new, cuts[id(tensor)])
    _mend(model, plans)
    return list(replaced.values())


def cuts_of(model: nn.Module, cfg: ChannelCfg) -> dict[int, Cut]:
    """How a channel config cuts the tensors of a model, by their identity; nothing is changed.

    Raises:
        ChannelCfgError: The config does not fit the model.
    """
    with _outputs_kept(model, cfg):
        return {
            id(local_tensors(model.get_submodule(name))[local]): cut
            for name, plan in _plans(model, cfg).items()
            for local, cut in plan.cuts.items()
        }


def _plans(model: nn.Module, cfg: ChannelCfg) -> dict[str, _ModulePlan]:
    """What every module that a config names becomes; nothing is changed yet."""
    modules = modules_of(model)
    plans = {
        name: _plan(cfg, name, entry, _find(cfg, name, modules))
        for name, entry in cfg.layers().items()
    }
    _check_complete(cfg, model)
    return plans


def _cuts(model: nn.Module, plans: Mapping[str, _ModulePlan]) -> Cuts:
    return {model.get_submodule(name): plan.cuts for name, plan in plans.items()}


def _mend(model: nn.Module, plans: Mapping[str, _ModulePlan]) -> None:
    """Make the attributes of a model fit its tensors, which are cut already."""
    for name, plan in plans.items():
        module = model.get_submodule(name)
        shapes = {local: tuple(t.shape) for local, t in local_tensors(module).items()}
        if 'weight' not in shapes and plan.inputs is not None and plan.channels is not None:
            shapes['weight'] = weight_shape(module, plan.inputs, plan.channels)
        for attribute, value in mended_attributes(module, shapes, plan.channels).items():
            setattr(module, attribute, value)
        if getattr(module, 'groups', 1) > 1 and isinstance(module, (*CONVS, *TRANSPOSED_CONVS)):
            _mend_groups(module, plan)
        store(module, {n: like(stored(module, n), v) for n, v in plan.attributes.items()})
        if plan.shortcut is not None:
            sample_shortcut(module, plan.shortcut)
    renew_caches(model)
    renew_computed_weights(model)


def _mend_groups(module: Any, plan: _ModulePlan) -> None:
    """Let a convolution have the groups that are left, where later rounds have lost whole ones."""
    turned = isinstance(module, TRANSPOSED_CONVS)
    across = plan.channels if turned else plan.inputs
    if across is not None and 'weight' in module._parameters:
        module.groups = across // module.weight.shape[1]
        setattr(module, 'out_channels' if turned else 'in_channels', across)


def layers_with_channels(model: nn.Module) -> list[str]:
    """Names of the convolutions, linear layers and norms of a model."""
    return [n for n, module in modules_of(model).items() if raw_channels(module, 'out') is not None]


def _check_complete(cfg: ChannelCfg, model: nn.Module) -> None:
    """Refuse a config that was made for a larger or smaller model, or lacks layers."""
    own, kind = layers_with_channels(model), type(model).__name__
    if cfg.is_marked:
        made_for = cfg[FORMAT_KEY].get('model_layers', len(own))
        if made_for != len(own):
            raise ChannelCfgError(
                f'{cfg.source}: was made for a model with {made_for} convolutions, linear layers '
                f'and norms; this {kind} has {len(own)}'
            )
        return
    missing = [name for name in own if name not in cfg]
    if missing:
        raise ChannelCfgError(
            f"{cfg.source}: lists {len(own) - len(missing)} of the {kind}'s {len(own)} "
            f"convolutions, linear layers and norms; '{missing[0]}' is missing: it is cut off, or "
            'was made for another model. If the model never uses that layer, call '
            'prepare_from_supernet(model) first'
        )


def _find(cfg: ChannelCfg, name: str, modules: Mapping[str, nn.Module]) -> nn.Module:
    if name not in modules:
        similar = [n for n in modules if n.rpartition('.')[2] == name.rpartition('.')[2]][:3]
        hint = f'; the model has, for example, {similar}' if similar else ''
        hint = hint or f"; the model's parts are {[n for n in modules if n and '.' not in n]}"
        raise cfg.error(name, f'the model has no such layer{hint}')
    return modules[name]


def _raw(module: nn.Module, attribute: str) -> Any:
    """An attribute's full-size value, also while a subnet is set."""
    state = module.__dict__.get(STATE)
    mended = state.attributes if state is not None else {}
    return mended[attribute] if attribute in mended else stored(module, attribute)


def raw_channels(module: nn.Module, side: str) -> int | None:
    """Full number of ``in`` or ``out`` channels of a module; None if its type has no such."""
    if isinstance(module, (*CONVS, *TRANSPOSED_CONVS)):
        return int(_raw(module, f'{side}_channels'))
    if isinstance(module, nn.Linear):
        return int(_raw(module, f'{side}_features'))
    if isinstance(module, NORMS) and side == 'out':
        names = ('num_features', 'num_channels', 'normalized_shape')
        value = next(_raw(module, n) for n in names if hasattr(module, n))
        return int(value if isinstance(value, int) else value[0])
    return None


def _plan(cfg: ChannelCfg, name: str, entry: Mapping[str, Any], module: nn.Module) -> _ModulePlan:
    """Read one entry against its module."""
    masks: dict[str, BoolArray | None] = {}
    for side in ('in', 'out'):
        raw, said = raw_channels(module, side), entry.get(f'raw_{side}_channels')
        if said is not None and raw is None:
            kind = type(module).__name__
            raise cfg.error(name, f'has {side}_channels, but the layer is a {kind}')
        if said is not None and said != raw:
            raise cfg.error(
                name, f'raw_{side}_channels is {said}, but the layer has {raw}: this config was '
                'made for another model'
            )  # fmt: skip
        masks[side] = entry_mask(entry, side)
    tensors = local_tensors(module)
    try:
        groups = _raw(module, 'groups') if hasattr(module, 'groups') else 1
        said = any(mask is not None for mask in masks.values())
        wanted = known_masks(module, masks['in'], masks['out'], groups, True) if said else {}
        cuts = _turned_cuts(module, entry, masks, groups)
    except ValueError as error:
        raise cfg.error(name, str(error)) from error
    apart = entry.get('tensors', {})
    wanted = {local: own for local, own in wanted.items() if local not in apart}
    for local, parts in apart.items():
        if local not in tensors:
            raise cfg.error(name, f"the layer has no parameter '{local}'")
        for key, part in parts.items():
            own_mask = _spread(cfg, name, local, tensors[local], str(key), part)
            wanted.setdefault(local, []).append(own_mask)
            index = turned_index(part)
            if index is not None and len(parts) == 1 and str(key).isdecimal():
                place = (int(key), torch.from_numpy(index), len(index))
                cuts[local] = plain_cut(tuple(tensors[local].shape), [place])
    for local, own in wanted.items():
        if local in cuts:
            continue
        try:
            cuts[local] = cut_of_masks(tuple(tensors[local].shape), own)
        except ValueError as error:
            raise cfg.error(name, f'{local}: {error}') from error
    counts = {side: None if mask is None else int(mask.sum()) for side, mask in masks.items()}
    attributes = _attributes(cfg, name, entry, module)
    shortcut = checked_shortcut(cfg, name, entry, module) if 'shortcut' in entry else None
    return _ModulePlan(cuts, counts['out'], counts['in'], attributes, shortcut)


def _turned_cuts(
    module: nn.Module,
    entry: Mapping[str, Any],
    masks: Mapping[str, BoolArray | None],
    groups: int,
) -> dict[str, Cut]:
    """The cuts of a layer's tensors, if its kept channels stand in an order of their own."""
    index = {side: turned_index(entry, f'{side}_index') for side in masks}
    if all(own is None for own in index.values()):
        return {}
    for side, mask in masks.items():
        if index[side] is None and mask is not None and not mask.all():
            index[side] = np.flatnonzero(mask)
    return turned_cuts(module, index['in'], index['out'], groups)


def _attributes(
    cfg: ChannelCfg, name: str, entry: Mapping[str, Any], module: nn.Module
) -> dict[str, Any]:
    """New values of the numbers that an entry says are sizes of channels."""
    found = {}
    for attribute, numbers in entry.get('attributes', {}).items():
        try:
            own, raw = _raw(module, attribute), numbers['raw']
        except AttributeError:
            raise cfg.error(name, f"the layer has no attribute '{attribute}'") from None
        if not may_be_size(module, attribute):
            raise cfg.error(name, f"'{attribute}' of a {type(module).__name__} is no size")
        if (list(own) if isinstance(own, tuple) else own) != raw:
            raise cfg.error(
                name, f"'{attribute}' is {raw} in the config, but {own} in the layer: this config "
                'was made for another model'
            )  # fmt: skip
        kept = numbers['kept']
        found[attribute] = tuple(kept) if isinstance(own, tuple) else kept
    return found


def _spread(
    cfg: ChannelCfg,
    name: str,
    local: str,
    tensor: torch.Tensor,
    key: str,
    part: Mapping[str, Any],
) -> BoolArray:
    """What is kept along the dims of ``key``, as an array of the tensor's rank."""
    dims = [int(dim) for dim in key.split(',')]
    if max(dims) >= tensor.dim():
        raise cfg.error(name, f"'{local}' has {tensor.dim()} dims, the config cuts dim {max(dims)}")
    shape = [size if dim in dims else 1 for dim, size in enumerate(tensor.shape)]
    if int(np.prod(shape)) != part['raw']:
        raise cfg.error(
            name, f"'{local}' has {int(np.prod(shape))} positions along dims {key}, "
            f'the config says {part["raw"]}'
        )  # fmt: skip
    return tensor_mask(part).reshape(shape)
