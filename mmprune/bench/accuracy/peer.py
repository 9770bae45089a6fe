"""Torch-Pruning at the same task: the same weights, images, criterion and multiply-adds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mmprune.bench.accuracy.backbones import AttentionBlock
from mmprune.bench.accuracy.criteria import Criterion, nearest
from mmprune.bench.accuracy.networks import count_macs, demo_input
from mmprune.bench.accuracy.training import loss_of, pixels

Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]


class Peer:
    """Torch-Pruning on one trained network.

    Args:
        network: Left as it is.
        batches: What criteria that look at data see.
        seed: Of random scores.
    """

    def __init__(self, network: nn.Module, batches: Batches, seed: int) -> None:
        self.network, self.batches, self.seed = network, batches, seed
        self._seen: dict[str, dict[str, torch.Tensor]] = {}

    def pruned(self, criterion: Criterion, scope: str, target: float) -> nn.Module:
        """A new network whose multiply-adds are as near to a target as a ratio gets them.

        Args:
            criterion: One that Torch-Pruning has.
            scope: One of ``SCOPES``.
            target: Multiply-adds.
        """

        def made(ratio: float) -> tuple[float, nn.Module]:
            network = self._at(criterion, scope, ratio)
            return count_macs(network), network

        return nearest(target, made)[1]

    def _at(self, criterion: Criterion, scope: str, ratio: float) -> nn.Module:
        """A network without a share of its channels, in one step."""
        import torch_pruning

        network = copy.deepcopy(self.network)
        if criterion.data is not None:
            self._show(network, criterion.data)
        assert criterion.theirs is not None
        importance = getattr(torch_pruning.importance, criterion.theirs)(**criterion.options)
        torch.manual_seed(self.seed)
        pruner = torch_pruning.pruner.BasePruner(
            network,
            demo_input(network),
            importance=importance,
            global_pruning=scope != 'local',
            isomorphic=scope == 'isomorphic',
            pruning_ratio=ratio,
            ignored_layers=[network.get_submodule('head.fc')],
            num_heads={
                each.qkv: each.heads
                for each in network.modules()
                if isinstance(each, AttentionBlock)
            },
        )
        pruner.step()
        network.zero_grad(set_to_none=True)
        return network

    def _show(self, network: nn.Module, data: str) -> None:
        """Put what a criterion has seen where Torch-Pruning looks for it."""
        if data not in self._seen:
            collect = {
                'gradients': self._gradients,
                'squares': self._squares,
                'activations': self._activations,
            }
            self._seen[data] = collect[data](copy.deepcopy(self.network).eval())
        seen = self._seen[data]
        if data == 'activations':
            for name, module in network.named_modules():
                if name in seen:
                    module._importance = seen[name].clone()
            return
        for name, parameter in network.named_parameters():
            parameter.grad = seen[name].clone()

    def _gradients(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """Gradients, summed over the batches."""
        for batch in self.batches:
            loss_of(network, batch).backward()
        return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}

    def _squares(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """What its Hessian importance makes of the gradients of single images.

        It is shown them as its documentation has it, and asked for what it then goes by. Version
        1.6.1 keeps the last image's only, so that the batches before the last are left out.
        """
        import torch_pruning

        scorer: Any = torch_pruning.importance.GroupHessianImportance()
        scorer.zero_grad()
        inputs, labels = self.batches[-1]
        for image, label in zip(inputs.split(1), labels.split(1), strict=True):
            network.zero_grad()
            loss_of(network, (image, label)).backward()
            scorer.accumulate_grad(network)
        names = {parameter: name for name, parameter in network.named_parameters()}
        return {names[p]: g / scorer._counter[p] for p, g in scorer._accu_grad.items()}

    def _activations(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """Mean inputs of the layers, over all images at once: it keeps the last batch only."""
        import torch_pruning

        inputs = torch.cat([images for images, _ in self.batches])
        with (
            torch.no_grad(),
            torch_pruning.importance.ActivationImportance().compute_importance(network),
        ):
            network(pixels(network, inputs))
        return {
            name: module._importance
            for name, module in network.named_modules()
            if hasattr(module, '_importance')
        }


def slimmed(network: nn.Module, target: float) -> nn.Module:
    """Torch-Pruning's network slimming: its pruner by scales, global and not normalised.

    Args:
        network: Trained with a penalty on its scales; left as it is.
        target: Multiply-adds to come near to.
    """
    options = dict(group_reduction='max', normalizer=None)
    scales = Criterion('slimming', {}, 'BNScaleImportance', options)
    return Peer(network, (), 0).pruned(scales, 'global', target)
