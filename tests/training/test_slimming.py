"""The penalty of network slimming by hand; the whole flow by config: train, prune, finetune."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn

from mmprune.checkpoint import read_checkpoint
from mmprune.commands.prune import prune
from mmprune.commands.run import evaluate, train
from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.models.algorithm import build_model
from mmprune.training import SlimmingPenalty
from mmprune.training.deployed_files import DeployedFiles
from mmprune.training.slimming import HISTORY_KEY, RECORDED, plot_scales


class Scales(nn.Module):
    """A residual sum of two norms, a norm of its own, and one that is the network's output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)
        self.b, self.norm_b = nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)
        self.c, self.norm_c = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
        self.last, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        with torch.no_grad():
            self.norm_a.weight.copy_(torch.tensor([0.5, -2, 0]))
            self.norm_a.bias.copy_(torch.tensor([-1.0, 0, 4]))
            self.norm_b.weight.copy_(torch.tensor([-0.25, 0.5, 3]))
            self.norm_c.bias.copy_(torch.tensor([0.1, -0.1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm_a(self.a(x)) + self.norm_b(self.b(x))
        return self.norm(self.last(self.norm_c(self.c(x)).relu()))


def started(
    epoch: int = 0, loop: type = EpochBasedTrainLoop, residual: str = 'share', **options: Any
) -> tuple[SlimmingPenalty, nn.Module, torch.optim.Optimizer]:
    """A hook in a training of 10 epochs, or 10 iterations, and plain gradient descent."""
    model = Scales().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    pruner = dict(type='NetworkSlimming', residual=residual)
    hook = SlimmingPenalty(pruner=pruner, input_shape=(2, 1, 3, 3), **options)
    runner: Any = SimpleNamespace(
        model=model,
        cfg=Config(),
        hooks=[hook],
        optim_wrapper=OptimWrapper(optimizer),
        train_loop=object.__new__(loop),
        epoch=epoch,
        iter=epoch,
        max_epochs=10,
        max_iters=10,
    )
    hook.before_run(runner)
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    hook.before_train_iter(runner, 0)
    return hook, model, optimizer


def added(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, list[float]]:
    """What a step takes off parameters whose gradients are zero: the penalty's gradient."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {n: (before[n] - p.detach()).flatten().tolist() for n, p in model.named_parameters()}


# weight * (1 - decay * epoch / 10) for scales, weight * shift_factor for shifts.
@pytest.mark.parametrize(
    ('options', 'scale', 'shift'),
    [
        (dict(epoch=0), 0.01, 0.1),
        (dict(epoch=5), 0.01 * (1 - 0.9 * 0.5), 0.1),
        (dict(epoch=9), 0.01 * (1 - 0.9 * 0.9), 0.1),
        (dict(epoch=5, decay=0), 0.01, 0.1),
        (dict(epoch=5, decay=1, shift_factor=0), 0.005, 0),
        (dict(epoch=2, shift_factor=3), 0.01 * (1 - 0.9 * 0.2), 0.03),
        (dict(epoch=5, loop=IterBasedTrainLoop), 0.01 * (1 - 0.9 * 0.5), 0.1),
    ],
)
def test_gradients_by_hand(options: dict[str, Any], scale: float, shift: float) -> None:
    hook, model, optimizer = started(weight=0.01, **options)
    found = added(model, optimizer)
    expected = {name: [0.0] * p.numel() for name, p in model.named_parameters()}
    expected['norm_a.weight'] = [scale, -scale, 0]
    expected['norm_a.bias'] = [-shift, 0, shift]
    expected['norm_b.weight'] = [-scale, scale, scale]
    expected['norm_c.weight'] = [scale, scale]
    expected['norm_c.bias'] = [shift, -shift]
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-12), name
    hook.after_train(SimpleNamespace(work_dir=None))  # type: ignore[arg-type]
    assert not any(map(any, added(model, optimizer).values()))


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Trainings that are made up have no work directory."""
    if 'by_hand' in request.node.name:
        monkeypatch.setattr('mmprune.training.slimming.is_main_process', lambda: False)


def test_what_the_threshold_does_not_decide_is_not_penalised() -> None:
    _, model, optimizer = started(weight=0.01, residual='skip')
    found = added(model, optimizer)
    assert {name for name, values in found.items() if any(values)} == {
        'norm_c.weight',
        'norm_c.bias',
    }


def test_scales_are_recorded_in_order() -> None:
    hook, _, _ = started()
    expected = torch.tensor([0, 0.25, 0.5, 0.5, 1, 1, 2, 3])
    assert torch.equal(hook.scales(), expected)
    assert len(hook.history) == 1
    assert torch.equal(hook.history[0], expected)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(weight=-1e-4), r'SlimmingPenalty: weight must be 0 or more, not -0\.0001'),
        (dict(decay=1.5), r'decay from 0 to 1 .* decay=1\.5'),
        (dict(shift_factor=-1), 'shift_factor=-1'),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SlimmingPenalty(**options)


# -- the picture -----------------------------------------------------------------------------


def test_histograms_over_epochs(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    history = [torch.rand(300, generator=generator) * 0.8**epoch for epoch in range(5)]
    plot_scales(history, tmp_path / 'scales.svg', threshold=0.2)
    text = (tmp_path / 'scales.svg').read_text()
    # Every histogram is a column: bins of the first reach to its top, those of the last do not.
    for words in ('threshold 0.2', 'epochs of training', 'absolute scale', 'Scales of the norms'):
        assert f'<!-- {words} -->' in text


@pytest.mark.parametrize('history', [[], [torch.zeros(3)], [torch.zeros(0)]])
def test_nothing_to_draw(history: list[torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(InputError, match='no scales to draw'):
        plot_scales(history, tmp_path / 'scales.png')
    assert not list(tmp_path.iterdir())


def test_of_many_scales_some_are_kept() -> None:
    hook = SlimmingPenalty()
    values = torch.arange(2 * RECORDED, dtype=torch.float32)
    hook.of_norms = lambda: iter(  # type: ignore[method-assign]
        [(None, SimpleNamespace(index=values.numpy()), nn.Parameter(values), 'weight')]  # type: ignore[list-item]
    )
    kept = hook.scales()
    assert len(kept) == RECORDED
    assert (kept[0], kept[-1]) == (0, 2 * RECORDED - 1)
    assert (kept.diff() - 2).abs().max() <= 1


# -- the flow --------------------------------------------------------------------------------

TINY = {
    'train_dataloader.batch_size': 32,
    'train_dataloader.dataset.indices': 96,
    'test_dataloader.dataset.indices': 60,
    'train_cfg.max_epochs': 3,
    'train_cfg.val_interval': 10,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.checkpoint.max_keep_ckpts': -1,
    'param_scheduler': [],
    'log_level': 'WARNING',
}


def sparse() -> Config:
    return load_config('slimming_resnet-small_1xb64_digits.py', TINY)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sparse training of three epochs."""
    folder = tmp_path_factory.mktemp('sparse')
    train(sparse(), folder)
    return folder


def test_training_draws_and_records(trained: Path) -> None:
    assert (trained / 'scales.png').read_bytes().startswith(b'\x89PNG')
    history = read_checkpoint(trained / 'epoch_3.pth')[HISTORY_KEY]
    # Before training, and after each epoch; written after the hook has recorded.
    assert len(history) == 4
    assert {len(scales) for scales in history} == {560}  # of all norms, those of one decision too
    assert float(history[-1].mean()) < float(history[0].mean())


def test_resuming_goes_on_recording(trained: Path, tmp_path: Path) -> None:
    runner = train(sparse(), tmp_path, resume=trained / 'epoch_2.pth')
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, SlimmingPenalty))
    expected = read_checkpoint(trained / 'epoch_3.pth')[HISTORY_KEY]
    assert len(hook.history) == 4
    for found, scales in zip(hook.history[:3], expected[:3], strict=True):
        assert torch.equal(found, scales)


def test_a_new_training_from_weights_records_anew(trained: Path, tmp_path: Path) -> None:
    cfg = sparse()
    cfg.load_from, cfg.train_cfg.max_epochs = str(trained / 'epoch_2.pth'), 1
    runner = train(cfg, tmp_path)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, SlimmingPenalty))
    assert len(hook.history) == 2


def pruned(trained: Path, folder: Path, percent: float, **pruner: Any) -> DeployedFiles:
    cfg = load_config('slimming-prune_resnet-small_1xb64_digits.py', TINY)
    cfg.model.pruner.update(percent=percent, **pruner)
    return prune(cfg, trained / 'epoch_3.pth', folder)


def test_prune_rebuild_finetune_test(trained: Path, tmp_path: Path) -> None:
    files = pruned(trained, tmp_path / 'slim', 0.3)
    assert files.verified.ok
    weights = read_checkpoint(files.checkpoint)['state_dict']
    assert weights['backbone.layer3.0.conv1.weight'].shape[0] <= 64
    full = read_checkpoint(trained / 'epoch_3.pth')['state_dict']
    assert sum(w.numel() for w in weights.values()) < sum(w.numel() for w in full.values())
    # The deployed config has neither the hook nor the pruner, and loads the checkpoint.
    cfg = load_config(files.config)
    assert 'SlimmingPenalty' not in cfg.pretty_text
    finetuned = train(files.config, tmp_path / 'finetuned')
    assert not any('mask' in name for name in finetuned.model.state_dict())
    found = evaluate(
        files.config, tmp_path / 'finetuned' / 'epoch_3.pth', tmp_path / 't', tmp_path / 'out.json'
    )
    assert json.loads((tmp_path / 'out.json').read_text()) == found
    assert 0 <= found['accuracy/top1'] <= 100


def test_an_unsafe_percent_writes_nothing(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'the highest safe threshold is .* allows percent'):
        pruned(trained, tmp_path / 'slim', 0.99)
    assert not (tmp_path / 'slim').exists()
    files = pruned(trained, tmp_path / 'slim', 0.99, beyond='clamp')
    assert files.verified.ok


def test_in_steps_while_training(tmp_path: Path) -> None:
    """Pruned at epochs 1 and 2, shifts folded at the last; the small network trains on."""
    cfg = sparse()
    (penalty,) = cfg.custom_hooks
    pruner = dict(penalty.pop('pruner'), percent=0.3, beyond='clamp')
    steps = dict(pruner=pruner, input_shape=(1, 1, 8, 8), begin=0, end=2, schedule='linear')
    cfg.custom_hooks = [dict(type='mmprune.IterativePruning', **steps), penalty]
    runner = train(cfg, tmp_path)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, SlimmingPenalty))
    assert not hook.is_active  # it ended with the supernet
    assert len(hook.history) == 3
    assert hook.pruner.folding.layers
    full = sum(p.numel() for p in build_model(cfg).parameters())
    assert sum(p.numel() for p in runner.model.parameters()) < 0.95 * full
    deployed = load_config(tmp_path / 'deployed.py')
    assert 'SlimmingPenalty' not in deployed.pretty_text
    assert 0 <= evaluate(deployed, tmp_path / 'epoch_3.pth', tmp_path / 't')['accuracy/top1'] <= 100
