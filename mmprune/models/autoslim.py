"""AutoSlim: one network trained at many widths, then searched for the best of them."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.dist import is_distributed
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmprune.deploy.channel_cfg import as_channel_cfg
from mmprune.errors import InputError
from mmprune.execution import SwitchableNorms
from mmprune.models.demo_inputs import ConfiguredInput
from mmprune.models.distillers import SelfDistiller
from mmprune.models.norm_statistics import (
    kept_norm_statistics,
    norms_with_statistics,
    recalibrate_norm_statistics,
)
from mmprune.models.sandwich import LABELLED, slimmable_step
from mmprune.models.training_data import training_data
from mmprune.models.transparent import Transparent
from mmprune.registry import MODELS, PRUNERS

ChannelCfg = str | Path | dict[str, Any]
Subnet = dict[str, Tensor]
NORMS = 'switchable_norms'
"""Where the norms of subnets that are retrained jointly are in the state dict."""


@MODELS.register_module()
class AutoSlim(Transparent):
    """A slimmable network: every width of ``architecture`` that ``pruner`` can set.

    Yu and Huang, "AutoSlim: Towards One-Shot Architecture Search for Channel
    Numbers", 2019. Training follows the sandwich rule with in-place
    distillation; a search loop (``GreedySearchLoop``, ``EvolutionSearchLoop``)
    then looks for subnets under a budget, and ``tools/deploy_subnet.py`` writes
    one of them as a plain network. With ``retraining=True`` and a
    ``channel_cfg`` the model *is* that plain network, trained from scratch; with a list of them
    these subnets are trained jointly, and share all weights but those of norms with statistics
    (Yu et al., "Slimmable Neural Networks", 2019).

    The network's weights are under ``architecture.`` in the state dict, masks
    included; names in channel configs are relative to ``architecture``, and hooks and constructors
    of optimizers see its attributes and names (:class:`~mmprune.models.transparent.Transparent`).

    Args:
        architecture: The network, or its config (any mmengine model, such as
            mmcls's ``ImageClassifier``).
        pruner: The pruner, or its config in PRUNERS.
        distiller: What teaches the narrower widths, or its config
            (:class:`~mmprune.models.distillers.SelfDistiller`). None: every
            width learns from the labels.
        num_sample_training: Widths trained per step: the widest, the narrowest
            and this many less two random ones.
        input_shape: Shape of the input on which the network is traced and its
            cost is counted, as (N, C, H, W), or (C, H, W) for one sample; that of a
            pose estimator's codec, or 1x3x224x224, which is said, if left out.
        demo_input: How the network is called on it, for a network that takes more than images:
            ``dict(type=<name in DEMO_INPUTS>, ...)``; what mmprune knows for its class
            if left out. See ``mmprune.models.demo_inputs``.
        bn_training_mode: Let the norms use each batch's own statistics in
            validation and test too, as MMRazor 0.x has it. The running
            statistics stay as they are. Search and deployment never do this.
        retraining: Train the subnet of ``channel_cfg`` instead of all widths, or those of a list.
        channel_cfg: The subnet to retrain: a file or its contents; or a list of subnets.
        recalibration: How the search and the tools compute a subnet's norm
            statistics: the fields of :class:`Recalibration`. Subnets that are retrained
            jointly keep theirs.
        data_preprocessor: For a network's config that brings none of its own.
        init_cfg: As in mmengine.

    Raises:
        InputError: If ``input_shape`` is no shape, ``num_sample_training`` is below 2,
            ``channel_cfg`` does not go with ``retraining``, is an empty list or does not fit, or a
            distiller's module is unknown.

    Attributes:
        is_slimmable: Whether it has several widths, rather than being one plain network.
        subnets: The subnets that are retrained jointly, if it is these.
    """

    def __init__(
        self,
        architecture: dict[str, Any] | nn.Module,
        pruner: Any,
        distiller: Any = None,
        num_sample_training: int = 4,
        input_shape: Sequence[int] | None = None,
        demo_input: dict[str, Any] | None = None,
        bn_training_mode: bool = False,
        retraining: bool = False,
        channel_cfg: ChannelCfg | list[ChannelCfg] | None = None,
        recalibration: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        network = _build_network(architecture, data_preprocessor)
        # The network's own preprocessor is shared: mmcls puts batch augmentations into it.
        preprocessor = getattr(network, 'data_preprocessor', data_preprocessor)
        super().__init__(data_preprocessor=preprocessor, init_cfg=init_cfg)
        if num_sample_training < 2:
            raise InputError(
                'num_sample_training counts the widest and the narrowest width, so it is '
                f'2 or more, got {num_sample_training}'
            )
        if retraining != (channel_cfg is not None):
            raise InputError(
                'retraining=True and channel_cfg=<file> belong together, got '
                f'retraining={retraining}, channel_cfg={channel_cfg}'
            )
        self.num_sample_training = num_sample_training
        self.bn_training_mode = bn_training_mode
        self.roads = ConfiguredInput.of(network, demo_input, input_shape).roads(network)
        self.recalibration = Recalibration(**(recalibration or {}))
        # Plain names mean mmprune's own, whatever the config's default scope.
        if isinstance(pruner, dict):
            pruner = PRUNERS.build({'_scope_': 'mmprune', **pruner})
        if isinstance(distiller, dict):
            distiller = MODELS.build({'_scope_': 'mmprune', **distiller})
        self.pruner = pruner
        self.distiller: SelfDistiller | None = None if retraining else distiller
        self.subnets: list[Subnet] = []
        self.is_slimmable = True
        if channel_cfg is not None and not isinstance(channel_cfg, list | tuple):
            self.is_slimmable = False
            self.architecture = pruner.deploy_subnet(network, as_channel_cfg(channel_cfg))
            return
        self.architecture = network
        if self.distiller is not None:
            self.distiller.check(network)
        pruner.prepare_from_supernet(network, demo_input=self.roads)
        if channel_cfg is not None:
            self._retrain_jointly(channel_cfg)

    def _retrain_jointly(self, channel_cfgs: Sequence[ChannelCfg]) -> None:
        if not channel_cfgs:
            raise InputError('channel_cfg lists no subnets to retrain')
        self.subnets = [self.pruner.load_channel_cfg(as_channel_cfg(c)) for c in channel_cfgs]
        # A submodule under this name, whatever attributes the network has.
        self._modules[NORMS] = self.pruner.switchable_norms(len(self.subnets))
        self.recalibration = Recalibration(num_batches=0)
        self.register_load_state_dict_post_hook(_set_loaded_subnet)
        self.switch_subnet(0)

    @property
    def _norms(self) -> SwitchableNorms | None:
        found: Any = self._modules.get(NORMS)
        return found

    def switch_subnet(self, number: int) -> None:
        """Set one of the subnets that are retrained jointly, with its norms.

        Raises:
            InputError: There is no subnet of this number.
        """
        if not 0 <= number < len(self.subnets):
            raise InputError(f'no subnet {number}: {len(self.subnets)} are retrained jointly')
        assert self._norms is not None
        self._norms.switch(number)
        self.pruner.set_subnet(self.subnets[number])

    def select_subnet(self, channel_cfg: ChannelCfg) -> None:
        """Set the subnet of a channel config, with its norms where it is one of ``subnets``.

        Raises:
            InputError: It does not fit the network, or is none of those of a joint retraining.
        """
        subnet = self.pruner.load_channel_cfg(channel_cfg)
        if not self.subnets:
            self.pruner.set_subnet(subnet)
            return
        keys = [[mask.flatten().tolist() for mask in each.values()] for each in self.subnets]
        key = [mask.flatten().tolist() for mask in subnet.values()]
        if key not in keys:
            raise InputError(
                f'{as_channel_cfg(channel_cfg).source}: is none of the {len(keys)} subnets that '
                'model.channel_cfg of the config lists, so there are no norms for it'
            )
        self.switch_subnet(keys.index(key))

    def forward(
        self, inputs: Tensor, data_samples: list[Any] | None = None, mode: str = 'tensor'
    ) -> Any:
        """Run the network at the width that is set; see ``BaseModel.forward`` of mmengine.

        Args:
            inputs: A batch, shape (N, ...).
            data_samples: The labels, for ``mode='loss'``.
            mode: 'tensor', 'predict' or 'loss'.

        Raises:
            RuntimeError: If another wrapper than AutoSlimDDP trains the supernet
                in several processes: it would train one width only.
        """
        if mode == 'loss' and self.is_slimmable and self.training and is_distributed():
            raise RuntimeError(
                'Distributed training of AutoSlim needs its own wrapper: put '
                "model_wrapper_cfg=dict(type='mmprune.AutoSlimDDP') into the config."
            )
        return self.architecture(inputs, data_samples, mode='loss' if mode == LABELLED else mode)

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Train on one batch; see :func:`mmprune.models.sandwich.slimmable_step`."""
        if self.is_slimmable:
            return slimmable_step(self, self, data, optim_wrapper)
        return super().train_step(data, optim_wrapper)

    def init_weights(self) -> None:
        """Initialise the network as its config says; all subnets begin with the same norms."""
        super().init_weights()
        if self._norms is not None:
            self._norms.begin_alike()

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Let subnets begin with the norms of a supernet, or plain network, that is loaded."""
        if self._norms is not None:
            self._norms.fill(state_dict, f'{prefix}{NORMS}.', f'{prefix}architecture.')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def for_optimizers(self) -> list[nn.Module]:
        """The network, and the norms of further subnets by the names that they have in it."""
        if self._norms is None:
            return super().for_optimizers()
        # An optimizer's state goes by the order of parameters.
        self.switch_subnet(0)
        return [self.architecture, *self._norms.others]

    def val_step(self, data: Any) -> list[Any]:
        """Predict a batch at the width that is set, leaving the running statistics as they are."""
        if not self.bn_training_mode:
            return super().val_step(data)
        with kept_norm_statistics(self.architecture):
            return super().val_step(data)

    def test_step(self, data: Any) -> list[Any]:
        """Predict a batch, as :meth:`val_step` does."""
        return self.val_step(data)

    def train(self, mode: bool = True) -> 'AutoSlim':
        """Set training mode; with ``bn_training_mode`` the norms are in it always."""
        super().train(mode)
        if not mode and self.bn_training_mode:
            for norm in norms_with_statistics(self.architecture):
                norm.train()
        return self

    def recalibrate(self, batches: Iterable[Any]) -> int:
        """Give the width that is set norm statistics of its own, and go to eval mode.

        Args:
            batches: Training batches as the dataloader gives them. They are
                preprocessed as in training, but images are not mixed.

        Returns:
            How many samples the statistics were taken over; 0 if ``recalibration`` wants no batches
            and the statistics stay.
        """
        self.architecture.eval()
        if self.recalibration.num_batches == 0:
            return 0
        data = (training_data(self.data_preprocessor, batch) for batch in batches)
        return recalibrate_norm_statistics(self.architecture, data)


@dataclass(frozen=True)
class Recalibration:
    """Which training images a subnet's norm statistics are computed over.

    Attributes:
        num_batches: How many batches. 0: subnets keep the supernet's statistics.
        batch_size: Images per batch; None means the training dataloader's.
        seed: Of the choice of images and of their random transforms.
    """

    num_batches: int = 16
    batch_size: int | None = None
    seed: int = 0


def _set_loaded_subnet(algorithm: AutoSlim, incompatible_keys: Any) -> None:
    """Set the subnet whose norms a checkpoint has in the network."""
    algorithm.switch_subnet(int(algorithm._modules[NORMS].index))


def _build_network(
    architecture: dict[str, Any] | nn.Module,
    data_preprocessor: dict[str, Any] | nn.Module | None,
) -> nn.Module:
    """Return the network with a data preprocessor, its own one before the given one."""
    if isinstance(architecture, nn.Module):
        return architecture
    config = deepcopy(dict(architecture))
    if data_preprocessor is not None:
        config.setdefault('data_preprocessor', data_preprocessor)
    return MODELS.build(config)
