"""Training, going on, and testing: what tools/train.py and tools/test.py do."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader

from mmprune.checkpoint import load_weights, read_checkpoint
from mmprune.commands import run
from mmprune.commands.run import evaluate, train
from mmprune.config import load_config
from mmprune.datasets import Digits
from mmprune.errors import InputError
from mmprune.registry import MODELS

CONFIG = 'resnet-small_1xb64_digits.py'
# Two epochs of two steps, and no random crops: what is resumed must be equal to the last bit.
SHORT: dict[str, Any] = {
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 2,
    'default_hooks.checkpoint.interval': 1,
    'train_dataloader.dataset.indices': 64,
    'train_dataloader.batch_size': 32,
    'train_dataloader.dataset.pipeline': [{'type': 'PackClsInputs'}],
    'param_scheduler': [],
    'log_level': 'ERROR',
}


@pytest.fixture(autouse=True)
def original_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with epoch_1.pth and epoch_2.pth."""
    work_dir = tmp_path_factory.mktemp('trained')
    train(CONFIG, work_dir, cfg_options=SHORT)
    return work_dir


@pytest.fixture
def interrupted(trained: Path, tmp_path: Path) -> Path:
    """The same, moved elsewhere and as it was after the first epoch."""
    shutil.copytree(trained, tmp_path / 'moved')
    (tmp_path / 'moved' / 'epoch_2.pth').unlink()
    (tmp_path / 'moved' / 'last_checkpoint').write_text('/no/longer/there/epoch_1.pth')
    return tmp_path / 'moved'


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)['state_dict']


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


@pytest.mark.parametrize('how', ['auto', 'file'])
def test_resuming_ends_where_an_uninterrupted_training_does(
    trained: Path, interrupted: Path, how: str
) -> None:
    resume = 'auto' if how == 'auto' else interrupted / 'epoch_1.pth'
    runner = train(CONFIG, interrupted, resume, cfg_options=SHORT)
    assert runner.epoch == 2
    expected = weights(trained / 'epoch_2.pth')
    found = weights(interrupted / 'epoch_2.pth')
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    before = weights(trained / 'epoch_1.pth')
    assert any(not torch.equal(before[key], found[key]) for key in found)


def test_auto_resume_without_a_checkpoint_starts_anew(trained: Path, tmp_path: Path) -> None:
    train(CONFIG, tmp_path, 'auto', cfg_options=SHORT)
    torch.testing.assert_close(
        weights(tmp_path / 'epoch_2.pth'), weights(trained / 'epoch_2.pth'), rtol=0, atol=0
    )


def test_a_lost_checkpoint_is_an_error_not_a_new_start(interrupted: Path) -> None:
    (interrupted / 'epoch_1.pth').unlink()
    with pytest.raises(InputError, match=r'last_checkpoint: names /no/longer/there/epoch_1\.pth'):
        train(CONFIG, interrupted, 'auto', cfg_options=SHORT)


def test_a_test_measures_what_a_plain_loop_does(trained: Path, tmp_path: Path) -> None:
    checkpoint, out = trained / 'epoch_2.pth', tmp_path / 'out' / 'metrics.json'
    metrics = evaluate(CONFIG, checkpoint, tmp_path, out, {'log_level': 'ERROR'})
    assert json.loads(out.read_text()) == metrics

    cfg = load_config(CONFIG)
    init_default_scope(cfg.default_scope)
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor}).eval()
    load_weights(model, checkpoint)
    samples = [sample for sample in Digits(split='test')]
    images = torch.stack([torch.from_numpy(sample['img']) for sample in samples])[:, None]
    labels = torch.tensor([sample['gt_label'] for sample in samples])
    preprocessed = (images.float() - 77.8) / 95.8
    with torch.no_grad():
        predicted = model.head(model.extract_feat(preprocessed)).argmax(1)
    assert metrics['accuracy/top1'] == pytest.approx((predicted == labels).float().mean() * 100)


def test_images_are_tested_in_several_forms(trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / 'epoch_2.pth'
    cfg = load_config(CONFIG, {'log_level': 'ERROR'})
    with pytest.raises(InputError, match='cannot test with augmentation: the config has no tta_m'):
        evaluate(cfg, checkpoint, tmp_path, tta=True)
    plain = evaluate(cfg, checkpoint, tmp_path)
    found = []
    for share in (0.0, 1.0):
        flips = [dict(type='RandomFlip', prob=share)]
        packed = [dict(type='PackClsInputs')]
        cfg.tta_pipeline = [dict(type='TestTimeAug', transforms=[flips * 2, packed])]
        cfg.tta_model = dict(type='AverageClsScoreTTA')
        found.append(evaluate(cfg, checkpoint, tmp_path, tta=True))
    assert found[0] == plain != found[1]
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    assert evaluate(cfg, checkpoint, tmp_path) == found[1]


def test_the_default_work_dir_is_named_after_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = train(CONFIG, cfg_options={**SHORT, 'train_cfg.max_epochs': 1})
    assert Path(runner.work_dir) == tmp_path / 'work_dirs' / 'resnet-small_1xb64_digits'
    # Absolute, so that --resume finds it from another folder too.
    last = (tmp_path / 'work_dirs/resnet-small_1xb64_digits/last_checkpoint').read_text()
    assert Path(last).is_absolute()


def cut_off(trained: Path, target: Path) -> None:
    target.write_bytes((trained / 'epoch_2.pth').read_bytes()[:5000])


def text(trained: Path, target: Path) -> None:
    target.write_text('no checkpoint')


def nothing(trained: Path, target: Path) -> None:
    assert not target.exists()


def of_another_model(trained: Path, target: Path) -> None:
    content = read_checkpoint(trained / 'epoch_2.pth')
    content['state_dict'] = {f'net.{key}': value for key, value in content['state_dict'].items()}
    torch.save(content, target)


BAD_CHECKPOINTS = pytest.mark.parametrize(
    ('make', 'expected'),
    [
        (cut_off, 'cut off: its 5000 bytes'),
        (text, 'not a checkpoint'),
        (nothing, 'does not exist'),
        (of_another_model, 'does not fit the model'),
    ],
)


@BAD_CHECKPOINTS
def test_a_bad_checkpoint_is_not_tested(
    trained: Path, tmp_path: Path, make: Any, expected: str
) -> None:
    make(trained, tmp_path / 'x.pth')
    with pytest.raises(InputError, match=rf'x\.pth: .*{expected}'):
        evaluate(CONFIG, tmp_path / 'x.pth', tmp_path / 'out', cfg_options={'log_level': 'ERROR'})


@BAD_CHECKPOINTS
def test_a_bad_checkpoint_is_not_resumed(
    trained: Path, tmp_path: Path, make: Any, expected: str
) -> None:
    make(trained, tmp_path / 'x.pth')
    with pytest.raises(InputError, match=rf'x\.pth: .*{expected}'):
        train(CONFIG, tmp_path / 'out', tmp_path / 'x.pth', cfg_options=SHORT)
    assert not list(tmp_path.rglob('epoch_*.pth'))


def test_training_does_not_start_from_weights_of_which_none_fits(
    trained: Path, tmp_path: Path
) -> None:
    of_another_model(trained, tmp_path / 'x.pth')
    options = {**SHORT, 'load_from': str(tmp_path / 'x.pth')}
    with pytest.raises(InputError, match=r'x\.pth: does not fit the model'):
        train(CONFIG, tmp_path / 'out', cfg_options=options)


def test_training_may_start_from_a_part_of_the_weights(trained: Path, tmp_path: Path) -> None:
    """As in finetuning on other classes: the backbone is loaded, the head is new."""
    state = weights(trained / 'epoch_2.pth')
    part = {key: value for key, value in state.items() if key.startswith('backbone')}
    torch.save(part, tmp_path / 'backbone.pth')
    options = {
        **SHORT,
        'load_from': str(tmp_path / 'backbone.pth'),
        'optim_wrapper.optimizer.lr': 0.0,
        'train_cfg.max_epochs': 1,
    }
    train(CONFIG, tmp_path / 'out', cfg_options=options)
    found = weights(tmp_path / 'out' / 'epoch_1.pth')
    torch.testing.assert_close(found['backbone.conv1.weight'], state['backbone.conv1.weight'])
    assert not torch.equal(found['head.fc.weight'], state['head.fc.weight'])


def test_bare_weights_are_no_training_to_go_on_with(trained: Path, tmp_path: Path) -> None:
    torch.save(weights(trained / 'epoch_2.pth'), tmp_path / 'bare.pth')
    with pytest.raises(InputError, match=r'bare\.pth: .*no meta, optimizer.*load_from='):
        train(CONFIG, tmp_path / 'out', tmp_path / 'bare.pth', cfg_options=SHORT)
    assert files(tmp_path) == ['bare.pth']


@pytest.mark.parametrize('missing', ['model', 'train_dataloader', 'optim_wrapper'])
def test_a_config_that_cannot_be_trained_is_refused(tmp_path: Path, missing: str) -> None:
    cfg = load_config(CONFIG, SHORT)
    cfg.pop(missing)
    with pytest.raises(InputError, match=f'cannot train: the config has no {missing}'):
        train(cfg, tmp_path / 'out')
    assert files(tmp_path) == []


def test_mixed_precision_needs_an_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, '_has_accelerator', lambda: False)
    with pytest.raises(InputError, match='--amp needs an accelerator'):
        train(CONFIG, tmp_path, amp=True, cfg_options=SHORT)
    with pytest.raises(InputError, match=r'digits\.py: optim_wrapper is an AmpOptimWrapper, which'):
        train(CONFIG, tmp_path, cfg_options={'optim_wrapper.type': 'AmpOptimWrapper'})


@pytest.mark.parametrize('kind', [None, 'OptimWrapper', 'AmpOptimWrapper'])
def test_mixed_precision_is_set_in_the_config(
    monkeypatch: pytest.MonkeyPatch, kind: str | None
) -> None:
    monkeypatch.setattr(run, '_has_accelerator', lambda: True)
    cfg = load_config(CONFIG, {'optim_wrapper.type': kind} if kind else {})
    run._set_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    assert cfg.optim_wrapper.optimizer.lr == 0.1


def test_mixed_precision_does_not_replace_another_optim_wrapper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, '_has_accelerator', lambda: True)
    cfg = load_config(CONFIG, {'optim_wrapper.type': 'ApexOptimWrapper'})
    with pytest.raises(InputError, match=r'optim_wrapper\.type is ApexOptimWrapper'):
        run._set_amp(cfg)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_mixed_precision_trains(tmp_path: Path) -> None:
    runner = train(CONFIG, tmp_path, amp=True, cfg_options=SHORT)
    assert type(runner.optim_wrapper).__name__ == 'AmpOptimWrapper'
    assert runner.epoch == 2


@pytest.mark.parametrize(('launcher', 'expected'), [('pytorch', 'RANK'), ('slurm', 'SLURM_NTASKS')])
def test_a_launcher_that_did_not_start_this_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str, expected: str
) -> None:
    monkeypatch.delenv(expected, raising=False)
    with pytest.raises(InputError, match=rf'--launcher {launcher}: .*{expected}'):
        train(CONFIG, tmp_path, cfg_options=SHORT, launcher=launcher)
