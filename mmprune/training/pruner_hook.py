"""What hooks that need a pruner have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmprune.config import files_of
from mmprune.errors import InputError
from mmprune.fileio import check_outputs
from mmprune.models import AutoSlim, Recalibration
from mmprune.models.algorithm import calibration_batches
from mmprune.models.demo_inputs import ConfiguredInput
from mmprune.models.training_data import training_loss
from mmprune.pruners import ImportancePruner, StructurePruner
from mmprune.registry import PRUNERS
from mmprune.wrappers import unwrap, without_wrapper


class PrunerHook(Hook):
    """A hook with a pruner on the runner's model.

    Args:
        pruner: The pruner or its config, which prepares the runner's model before training
            begins. None: the pruner of another hook, or of the model itself.
        input_shape: Shape of the input on which the network is traced and its cost is counted,
            (N, C, H, W), or (C, H, W) for one sample; 1x3x224x224 if left out, which is said.
            For a ``pruner`` of this hook only.
        collect: Training images for an importance that looks at data, as in
            ``Recalibration``: ``num_batches``, ``batch_size``, ``seed``.
        demo_input: How the model is called, for a ``pruner`` of this hook, as in ``AutoSlim``;
            ``demo_input`` of the config if None.
    """

    # Before EMAHook copies the model, and before a checkpoint is loaded.
    priority = 'VERY_HIGH'
    writes: tuple[str, ...] = ()
    """Files that it writes into the work directory."""

    def __init__(
        self,
        pruner: Mapping[str, Any] | StructurePruner | None = None,
        input_shape: Sequence[int] | None = None,
        collect: Mapping[str, Any] | None = None,
        demo_input: Mapping[str, Any] | None = None,
    ) -> None:
        built = (
            PRUNERS.build({'_scope_': 'mmprune', **pruner})
            if isinstance(pruner, Mapping)
            else pruner
        )
        self.own: StructurePruner | None = built
        self.input_shape, self.demo_input = input_shape, demo_input
        self.images = Recalibration(**{'num_batches': 8, **(collect or {})})
        self.found: StructurePruner | None = None
        self._batches: list[Any] | None = None

    @property
    def pruner(self) -> StructurePruner:
        """The pruner, prepared."""
        assert self.found is not None, 'before_run has not been called'
        return self.found

    @property
    def target(self) -> ImportancePruner:
        """The pruner, which has a target to prune to.

        Raises:
            InputError: It has none.
        """
        if not isinstance(self.pruner, ImportancePruner):
            raise InputError(
                f'{type(self).__name__} needs an ImportancePruner, not a '
                f'{type(self.pruner).__name__}'
            )
        return self.pruner

    def look_at_data(self, runner: Runner) -> None:
        """Let the pruner's importance see training images, if it looks at data.

        The images are the same at every call, and in every process.
        """
        pruner = self.target
        if not pruner.needs_data:
            return
        if self._batches is None:
            self._batches = calibration_batches(runner.cfg, self.images)
        pruner.importance.reset()
        pruner.collect(self._batches, training_loss)

    def before_run(self, runner: Runner) -> None:
        """Prepare the runner's model, or find the pruner that has.

        Raises:
            InputError: There is no pruner, or another hook has one too.
        """
        if self.found is not None:
            return
        if self.own is not None:
            for hook in runner.hooks:
                if getattr(hook, 'found', None) not in (None, self.own):
                    raise InputError(
                        f'{type(self).__name__} and {type(hook).__name__} have a pruner each, and '
                        'the model can have one: leave out that of the second hook, which then '
                        "takes the first one's"
                    )
            model = runner.model
            network, settings = unwrap(model), self.demo_input or runner.cfg.get('demo_input')
            given = ConfiguredInput.of(network, settings, self.input_shape)
            self.own.prepare_from_supernet(model, given.roads(network))
            self.found = self.own
            return
        self.found = pruner_of(runner)
        if self.found is None:
            name = type(self).__name__
            raise InputError(
                f"{name}: there is no pruner. Give it one, custom_hooks=[dict(type='mmprune.{name}'"
                ", pruner=dict(type='ImportancePruner', ...), input_shape=...)], or to a hook "
                'before it'
            )

    def before_train(self, runner: Runner) -> None:
        """Refuse to write over what the training reads."""
        places = [Path(runner.work_dir, name) for name in self.writes]
        check_outputs(places, inputs=files_of(runner.cfg))


def pruner_of(runner: Runner) -> StructurePruner | None:
    """The prepared pruner of a runner's hooks, or of its model."""
    for hook in runner.hooks:
        found = getattr(hook, 'found', None)
        if isinstance(found, StructurePruner):
            return found
    model = without_wrapper(runner.model)
    own = getattr(model, 'pruner', None)
    prepared = isinstance(own, StructurePruner) and own._supernet is not None
    return own if prepared else None


def check_not_slimmable(hook: Hook, runner: Runner) -> None:
    """Refuse a model whose training step sets widths itself.

    Raises:
        InputError: It is an AutoSlim.
    """
    model = without_wrapper(runner.model)
    if isinstance(model, AutoSlim) and model.is_slimmable:
        raise InputError(
            f'{type(hook).__name__} cannot prune an AutoSlim, whose steps set widths themselves: '
            'give the plain network as model, and the pruner to the hook'
        )
