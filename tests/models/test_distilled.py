"""A deployed network that learns from the full one."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from torch import nn

from mmprune.config import load_config
from mmprune.errors import InputError, MissingFileError
from mmprune.models import AutoSlim
from mmprune.models.algorithm import build_model
from mmprune.randomness import seeded, stir
from mmprune.registry import MODELS, PRUNERS

Build = Callable[..., AutoSlim]
Batch = Callable[..., dict[str, Any]]


def component(module: str, **loss: Any) -> dict[str, Any]:
    return dict(student_module=module, teacher_module=module, losses=[loss])


LOGITS = component('head.fc', type='KLDivergence', tau=3.0, name='kl')
FEATURES = component('backbone.layer3', type='L2Loss', name='l2')


@pytest.fixture
def full(build: Build, tmp_path: Path) -> tuple[AutoSlim, Path]:
    """A supernet at a random width with scattered channels, and the full network's checkpoint."""
    supernet = build(
        pruner=dict(
            type='RatioPruner',
            ratios=[0.5],
            importance=dict(type='RandomImportance', seed=0),
            except_start_keys=['head.fc'],
        )
    )
    stir(supernet.architecture)
    supernet.pruner.set_subnet(supernet.pruner.sample_subnet())
    plain = MODELS.build(supernet_config())
    weights = supernet.architecture.state_dict()
    torch.save({key: weights[key] for key in plain.state_dict()}, tmp_path / 'full.pth')
    return supernet, tmp_path / 'full.pth'


def supernet_config() -> dict[str, Any]:
    cfg = load_config('autoslim_resnet-tiny_1xb32_digits.py')
    return dict(cfg.model.architecture, data_preprocessor=cfg.data_preprocessor)


def distilled(supernet: AutoSlim, checkpoint: Path, **settings: Any) -> Any:
    """The supernet's subnet with the teacher of ``checkpoint``, by a config."""
    pruner = supernet.pruner
    model = MODELS.build(
        dict(
            type='mmprune.DistilledModel',
            architecture=dict(
                type='mmprune.DeployedModel',
                model=supernet_config(),
                channel_cfg=pruner.export_subnet(),
            ),
            **{
                'teacher': dict(checkpoint=str(checkpoint)),
                'distiller': dict(type='SelfDistiller', components=[LOGITS, FEATURES]),
                **settings,
            },
        )
    )
    state = pruner.deploy_subnet(supernet.architecture).state_dict()
    model.load_state_dict(state)
    return model.train()


def teacher_of(checkpoint: Path) -> Any:
    teacher = MODELS.build(supernet_config())
    teacher.load_state_dict(torch.load(checkpoint, weights_only=True))
    return teacher.eval()


def losses_by_hand(
    model: Any, supernet: AutoSlim, teacher: Any, data: dict[str, Any]
) -> dict[str, Any]:
    """The labels' loss, and those of logits and features on the channels that both have."""
    data = model.data_preprocessor(data, True)
    entry = supernet.pruner.export_subnet()['backbone.layer3.0.conv2']
    found: dict[str, Any] = {}
    plain = supernet.pruner.deploy_subnet(supernet.architecture)
    plain.load_state_dict(model.state_dict())
    plain.train()
    with torch.no_grad():
        target = teacher.backbone(data['inputs'])[0][:, entry['out_index']]
        logits = teacher(data['inputs']) / 3
    features = plain.backbone(data['inputs'])
    scores = plain.head.fc(plain.neck(features)[-1])
    labels = torch.cat([sample.gt_label.label for sample in data['data_samples']])
    found['loss'] = F.cross_entropy(scores, labels)
    divergence = (logits.softmax(1) * (logits.log_softmax(1) - (scores / 3).log_softmax(1))).sum(1)
    found['kl_loss'] = 9 * divergence.mean()
    found['l2_loss'] = (features[0] - target).square().mean()
    sum(found.values()).backward()
    return {**found, 'gradients': {name: p.grad for name, p in plain.named_parameters()}}


def test_losses_and_gradients_by_hand(full: tuple[AutoSlim, Path], batch: Batch) -> None:
    supernet, checkpoint = full
    model = distilled(supernet, checkpoint)
    teacher = teacher_of(checkpoint)
    expected = losses_by_hand(model, supernet, teacher, batch(8, seed=0))
    data = model.data_preprocessor(batch(8, seed=0), True)
    found = model(**data, mode='loss')
    sum(found.values()).backward()
    gradients = expected.pop('gradients')
    torch.testing.assert_close({**found}, {**expected}, rtol=1e-4, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4, msg=name)


def test_it_is_the_student_by_all_its_names(full: tuple[AutoSlim, Path], batch: Batch) -> None:
    supernet, checkpoint = full
    model = distilled(supernet, checkpoint)
    plain = supernet.pruner.deploy_subnet(supernet.architecture)
    optim_wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    model.train_step(batch(8, seed=0), optim_wrapper)
    assert isinstance(model, type(plain))
    assert [*model.state_dict()] == [*plain.state_dict()]
    assert [*dict(model.named_parameters())] == [*dict(plain.named_parameters())]
    assert [*dict(model.named_modules())] == [*dict(plain.named_modules())]
    plain.load_state_dict(model.state_dict())  # strictly
    model.eval()
    plain.eval()
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(model(images), plain(images), rtol=0, atol=0)
    predicted, expected = (net.test_step(batch(4, seed=1)) for net in (model, plain))
    assert [int(p.pred_label.label) for p in predicted] == [
        int(p.pred_label.label) for p in expected
    ]


def test_the_teacher_stays_as_it_was(full: tuple[AutoSlim, Path], batch: Batch) -> None:
    supernet, checkpoint = full
    model = distilled(supernet, checkpoint)
    optim_wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    for step in range(3):
        model.train()  # as every epoch begins
        model.train_step(batch(8, seed=step), optim_wrapper)
    teacher = model.teaching.teacher(torch.device('cpu'))
    saved = torch.load(checkpoint, weights_only=True)
    torch.testing.assert_close(dict(teacher.state_dict()), saved, rtol=0, atol=0)
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert not any(m._forward_hooks for m in [*model.modules(), *teacher.modules()])


def test_the_teacher_may_be_another_network_of_another_width(
    full: tuple[AutoSlim, Path], batch: Batch, tmp_path: Path
) -> None:
    """By a config file; what is drawn at random does not notice that it was built."""
    supernet, _ = full
    config = tmp_path / 'large.py'
    config.write_text(
        "default_scope = 'mmcls'\n"
        f'model = {dict(supernet_config(), data_preprocessor=None)!r}\n'
        "model['backbone']['base_channels'] = 16\nmodel['head']['in_channels'] = 64\n"
    )

    with seeded(0):
        torch.save(build_model(load_config(config)).state_dict(), tmp_path / 'large.pth')
    teacher = dict(config=str(config), checkpoint=str(tmp_path / 'large.pth'))
    model = distilled(supernet, tmp_path / 'large.pth', teacher=teacher)
    data = model.data_preprocessor(batch(8, seed=0), True)
    torch.manual_seed(5)
    losses = model(**data, mode='loss')
    assert {*losses} == {'loss', 'kl_loss'}  # features of other channels are left out
    drawn = torch.rand(3)
    torch.manual_seed(5)
    torch.testing.assert_close(drawn, torch.rand(3), rtol=0, atol=0)


def test_scopes_are_as_before_a_teacher_of_another_one(
    full: tuple[AutoSlim, Path], tmp_path: Path, batch: Batch
) -> None:
    supernet, checkpoint = full
    config = tmp_path / 'scoped.py'
    model = dict(supernet_config(), type='mmcls.ImageClassifier')
    config.write_text(f"default_scope = 'mmengine'\nmodel = {model!r}\n")
    text = config.read_text()
    for kind in (
        'ResNet_CIFAR',
        'GlobalAveragePooling',
        'LinearClsHead',
        'CrossEntropyLoss',
        'ClsDataPreprocessor',
    ):
        text = text.replace(f"'{kind}'", f"'mmcls.{kind}'")
    config.write_text(text)
    student = distilled(
        supernet, checkpoint, teacher=dict(config=str(config), checkpoint=str(checkpoint))
    )
    student(**student.data_preprocessor(batch(4, seed=0), True), mode='loss')
    assert DefaultScope.get_current_instance().scope_name == 'mmcls'


def test_gradients_accumulate_and_may_be_of_lower_precision(
    full: tuple[AutoSlim, Path], batch: Batch
) -> None:
    supernet, checkpoint = full
    model, alone = (distilled(supernet, checkpoint) for _ in range(2))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    before = copy.deepcopy(dict(model.named_parameters()))
    for step in range(2):
        model.train_step(batch(8, seed=step), wrapper)
        total = sum(
            alone(**alone.data_preprocessor(batch(8, seed=step), True), mode='loss').values()
        )
        (total / 2).backward()
    for name, parameter in alone.named_parameters():
        expected = before[name] - 0.1 * parameter.grad
        torch.testing.assert_close(dict(model.named_parameters())[name], expected, msg=name)

    logs = {}
    for is_enabled in (False, True):
        model = distilled(supernet, checkpoint)
        with torch.autocast('cpu', torch.bfloat16, enabled=is_enabled):
            data = model.data_preprocessor(batch(8, seed=0), True)
            losses = model(**data, mode='loss')
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        sum(losses.values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        logs[is_enabled] = {key: value.item() for key, value in losses.items()}
    assert logs[True] == pytest.approx(logs[False], rel=0.1)
    assert logs[True] != logs[False]


def test_an_average_of_the_student_has_the_same_teacher(
    full: tuple[AutoSlim, Path], batch: Batch
) -> None:
    supernet, checkpoint = full
    model = distilled(supernet, checkpoint)
    average = ExponentialMovingAverage(model, momentum=0.5)
    model.train_step(batch(8, seed=0), OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    average.update_parameters(model)
    assert average.module.teaching is model.teaching
    assert [*average.module.state_dict()] == [*model.state_dict()]


def test_only_training_needs_the_teacher(full: tuple[AutoSlim, Path], batch: Batch) -> None:
    supernet, checkpoint = full
    model = distilled(supernet, checkpoint)
    checkpoint.unlink()
    data = batch(4, seed=0)
    model.eval()
    assert len(model.test_step(data)) == 4
    assert {*model(**model.data_preprocessor(data, False), mode='loss')} == {'loss'}
    model.train()
    with pytest.raises(MissingFileError, match=r'full\.pth: the checkpoint does not exist'):
        model(**model.data_preprocessor(data, True), mode='loss')


def test_a_student_is_pruned_without_its_teacher(full: tuple[AutoSlim, Path]) -> None:
    """Its loss is a road as any: the teacher is not even there."""
    supernet, checkpoint = full
    student = distilled(supernet, checkpoint)
    checkpoint.unlink()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5]))
    pruner.prepare_from_supernet(student, torch.rand(2, 1, 8, 8))
    report = pruner.verify_subnet()
    assert report.ok, report
    assert not pruner.supernet.not_walked()
    assert [road.name for road in pruner.supernet.roads()][-1] == 'loss'


class Points(BaseModel):
    """Runs its second part for its loss only; takes no labels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        x = self.first(inputs)
        return {'loss': self.second(x).mean()} if mode == 'loss' else x


def test_networks_are_taken_as_they_are_and_the_loss_may_be_the_teachers_mode() -> None:
    settings = dict(
        type='mmprune.DistilledModel',
        distiller=dict(
            components=[component('second', type='mmprune.L2Loss')], type='SelfDistiller'
        ),
    )
    student, teacher = Points(), Points()
    model = MODELS.build(dict(settings, architecture=student, teacher=teacher))
    assert model is student
    with pytest.raises(InputError, match='second did not run as the teacher'):
        model.train()(torch.rand(2, 3), mode='loss')
    model = MODELS.build(
        dict(settings, architecture=Points(), teacher=teacher, teacher_mode='loss')
    )
    inputs = torch.rand(2, 3)
    losses = model.train()(inputs, mode='loss')
    first, second = (net.second(net.first(inputs)) for net in (model, teacher))
    torch.testing.assert_close(losses['second.l2loss_loss'], (first - second).square().mean())
    assert model(inputs).shape == (2, 4)


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (dict(teacher=dict(ckpt='x')), "DistilledModel: teacher has no option 'ckpt'"),
        (dict(teacher=dict(config='x.py')), 'DistilledModel: teacher needs checkpoint'),
        (dict(teacher_mode='predict'), "teacher_mode must be 'tensor' or 'loss', not 'predict'"),
        (
            dict(
                distiller=dict(
                    type='SelfDistiller', components=[component('head.fcs', type='L2Loss')]
                )
            ),
            "no module 'head.fcs'",
        ),
    ],
)
def test_mistakes_are_told_when_it_is_built(
    full: tuple[AutoSlim, Path], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        distilled(*full, **settings)


def test_a_teacher_without_a_config_and_losses_with_weights_are_refused() -> None:
    distiller = dict(type='SelfDistiller', components=[component('first', type='mmprune.L2Loss')])
    with pytest.raises(InputError, match='teacher needs a config: the architecture is no Deployed'):
        MODELS.build(
            dict(
                type='mmprune.DistilledModel',
                architecture=Points(),
                teacher=dict(checkpoint='x'),
                distiller=distiller,
            )
        )
