from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper

from mmprune.errors import InputError
from mmprune.models import AutoSlim
from mmprune.models.norm_statistics import norms_with_statistics

Build = Callable[..., AutoSlim]
Batch = Callable[..., dict[str, Any]]


def optim_wrapper(model: AutoSlim, **settings: Any) -> OptimWrapper:
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), **settings)


def statistics(model: AutoSlim) -> list[torch.Tensor]:
    return [
        buffer.clone()
        for norm in norms_with_statistics(model)
        for buffer in (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    ]


def test_state_dict_names(build: Build) -> None:
    names = build().state_dict().keys()
    assert all(name.startswith('architecture.') for name in names)
    assert 'architecture.backbone.conv1.weight' in names
    assert 'architecture.backbone.conv1.out_mask' in names


def test_forward_is_the_networks_own(build: Build, batch: Batch) -> None:
    model = build().eval()
    data = model.data_preprocessor(batch(3, seed=0), False)
    logits = model(data['inputs'])
    torch.testing.assert_close(logits, model.architecture(data['inputs']))
    predicted = model.val_step(batch(3, seed=0))
    assert [int(p.pred_label.label) for p in predicted] == logits.argmax(1).tolist()
    losses = model(**data, mode='loss')
    torch.testing.assert_close(losses['loss'], losses['loss'].detach())


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_a_step_adds_up_the_gradients_of_all_widths(
    build: Build, batch: Batch, execution: str
) -> None:
    pruner = dict(type='RatioPruner', ratios=[0.25, 0.5, 1.0], execution=execution)
    model = build(num_sample_training=4, pruner=pruner).train()
    data = batch(16, seed=0)

    np.random.seed(3)  # what RatioPruner draws from
    expected = gradients_by_hand(deepcopy_of(build, model, pruner), data)
    before = {name: value.clone() for name, value in model.named_parameters()}
    np.random.seed(3)
    logs = model.train_step(data, optim_wrapper(model))

    for name, value in model.named_parameters():
        torch.testing.assert_close(value, before[name] - 0.1 * expected[name], msg=name)
    assert {name.partition('.')[0] for name in logs} == {
        'loss',
        'max_subnet',
        'min_subnet',
        'random_subnet1',
        'random_subnet2',
    }
    parts = [value for name, value in logs.items() if name.endswith('subnet.loss')]
    parts += [logs[f'random_subnet{i}.loss'] for i in (1, 2)]
    torch.testing.assert_close(logs['loss'], torch.stack(parts).sum())


def deepcopy_of(build: Build, model: AutoSlim, pruner: dict[str, Any]) -> AutoSlim:
    """A supernet of its own with the same weights."""
    copied = build(num_sample_training=4, pruner=pruner).train()
    copied.load_state_dict(model.state_dict())
    return copied


def gradients_by_hand(model: AutoSlim, data: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The sandwich rule, written out: one sum of losses, one backward pass."""
    data = model.data_preprocessor(data, True)
    pruner, network = model.pruner, model.architecture
    pruner.set_max_channel()
    network(**data, mode='loss')['loss'].backward()
    teacher = network(data['inputs']).detach().log_softmax(1)
    pruner.set_min_channel()
    widths = [pruner.current_subnet(), pruner.sample_subnet(), pruner.sample_subnet()]
    for width in widths:
        pruner.set_subnet(width)
        student = network(data['inputs']).log_softmax(1)
        ((teacher.exp() * (teacher - student)).sum() / len(teacher)).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters()}


def test_only_the_widest_leaves_a_trace_in_the_running_statistics(
    build: Build, batch: Batch
) -> None:
    model = build().train()
    alone = build().train()
    alone.load_state_dict(model.state_dict())
    alone.architecture(**alone.data_preprocessor(batch(16, seed=0), True), mode='loss')

    model.train_step(batch(16, seed=0), optim_wrapper(model))

    for after, expected in zip(statistics(model), statistics(alone), strict=True):
        torch.testing.assert_close(after, expected)


def test_a_step_ends_at_full_width(build: Build, batch: Batch) -> None:
    model = build().train()
    model.train_step(batch(16, seed=0), optim_wrapper(model))
    assert all(bool(mask.all()) for mask in model.pruner.current_subnet().values())
    assert not model.distiller._outputs


def test_without_distiller_every_width_learns_from_the_labels(build: Build, batch: Batch) -> None:
    model = build(distiller=None).train()
    logs = model.train_step(batch(16, seed=0), optim_wrapper(model))
    # Nothing is learned yet: the cross-entropy of ten classes.
    assert logs['min_subnet.loss'].item() == pytest.approx(np.log(10), abs=0.5)


def test_gradient_accumulation_counts_batches_not_widths(build: Build, batch: Batch) -> None:
    model = build().train()
    wrapper = optim_wrapper(model, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    before = model.architecture.head.fc.weight.clone()
    changes = []
    for step in range(4):
        model.train_step(batch(8, seed=step), wrapper)
        changes.append(not torch.equal(model.architecture.head.fc.weight, before))
        before = model.architecture.head.fc.weight.clone()
    assert changes == [False, True, False, True]
    assert wrapper.inner_count == 4


class DoublingOptimWrapper(OptimWrapper):
    """Scales losses on the way back, as mixed precision does."""

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        super().backward(2 * loss, **kwargs)


def test_every_width_goes_back_through_the_optim_wrapper(build: Build, batch: Batch) -> None:
    steps = []
    first = build().train()
    start = {name: value.clone() for name, value in first.state_dict().items()}
    for wrapper_class in (OptimWrapper, DoublingOptimWrapper):
        model = build().train()
        model.load_state_dict(start)
        np.random.seed(3)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        model.train_step(batch(16, seed=0), wrapper_class(sgd))
        steps.append({k: v.detach() - start[k] for k, v in model.named_parameters()})
    doubled = {name: 2 * step for name, step in steps[0].items()}
    torch.testing.assert_close(steps[1], doubled, rtol=1e-3, atol=1e-6)


def test_norms_may_use_the_statistics_of_each_batch(build: Build, batch: Batch) -> None:
    model, plain = build(bn_training_mode=True), build()
    plain.load_state_dict(model.state_dict())
    for each in (model, plain):
        each.eval()
    before = statistics(model)
    own = torch.stack([p.pred_label.score for p in model.val_step(batch(16, seed=0))])
    running = torch.stack([p.pred_label.score for p in plain.test_step(batch(16, seed=0))])
    assert not torch.allclose(own, running)
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(model), strict=True))


def test_recalibrating_leaves_the_batch_statistics_mode(build: Build, batch: Batch) -> None:
    model = build(bn_training_mode=True).eval()
    assert model.recalibrate([batch(8, seed=0), batch(4, seed=1)]) == 12
    assert not any(norm.training for norm in norms_with_statistics(model))


def test_statistics_stay_if_no_batches_are_wanted(build: Build, batch: Batch) -> None:
    model = build(recalibration=dict(num_batches=0))
    before = statistics(model)
    assert model.recalibrate([]) == 0
    assert not model.architecture.training
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(model), strict=True))


def test_retraining_trains_the_plain_subnet(build: Build, batch: Batch) -> None:
    supernet = build()
    supernet.pruner.set_min_channel()
    layers, cost = (
        supernet.pruner.export_subnet(),
        supernet.pruner.cost(supernet.pruner.current_subnet()),
    )

    model = build(retraining=True, channel_cfg=layers).train()

    assert sum(value.numel() for value in model.parameters()) == cost['params']
    assert not any('mask' in name for name in model.state_dict())
    before = model.architecture.head.fc.weight.clone()
    logs = model.train_step(batch(16, seed=0), optim_wrapper(model))
    assert 'max_subnet.loss' not in logs
    assert not torch.equal(model.architecture.head.fc.weight, before)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'num_sample_training': 1}, 'it is 2 or more, got 1'),
        ({'retraining': True}, 'retraining=True, channel_cfg=None'),
        ({'channel_cfg': 'subnet.yaml'}, 'retraining=False, channel_cfg=subnet.yaml'),
    ],
)
def test_settings_that_make_no_sense(build: Build, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(**settings)


def test_another_distributed_wrapper_is_refused(
    build: Build, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build().train()
    data = model.data_preprocessor(batch(2, seed=0), True)
    monkeypatch.setattr('mmprune.models.autoslim.is_distributed', lambda: True)
    with pytest.raises(RuntimeError, match=r'model_wrapper_cfg=dict\(type=.mmprune.AutoSlimDDP'):
        model(**data, mode='loss')
    # A subnet that is trained as a plain network needs no wrapper of its own.
    model.pruner.set_min_channel()
    plain = build(retraining=True, channel_cfg=deepcopy(model.pruner.export_subnet())).train()
    assert 'loss' in plain(**data, mode='loss')


def test_features_are_compared_on_the_channels_that_a_width_has(build: Build, batch: Batch) -> None:
    """In slices the student's features are narrower than the teacher's; masked, they have zeros."""
    module, losses = 'backbone.layer1', [dict(type='L2Loss', name='l2')]
    distiller = dict(
        type='SelfDistiller',
        components=[dict(student_module=module, teacher_module=module, losses=losses)],
    )
    logs = {}
    for execution in ('slice', 'mask'):
        pruner = dict(
            type='RatioPruner',
            ratios=[0.5],
            execution=execution,
            importance=dict(type='RandomImportance', seed=0),
        )
        model = build(pruner=pruner, distiller=distiller, num_sample_training=2)
        model.load_state_dict(logs.setdefault('state', deepcopy(model.state_dict())))
        logs[execution] = model.train().train_step(batch(16, seed=0), optim_wrapper(model))
    torch.testing.assert_close(logs['slice'], logs['mask'])
    model.load_state_dict(logs['state'])
    network = model.architecture
    images = model.data_preprocessor(batch(16, seed=0), True)['inputs']
    features = []
    network.backbone.layer1.register_forward_hook(lambda m, i, output: features.append(output))
    for set_width in (model.pruner.set_max_channel, model.pruner.set_min_channel):
        set_width()
        network(images)
    alive = model.pruner.export_subnet()['backbone.layer1.0.conv2']['out_index']
    expected = (features[0] - features[1])[:, alive].square().mean()
    torch.testing.assert_close(logs['slice']['min_subnet.l2_loss'], expected.detach())
