"""Criteria that look at batches, against values worked out by hand."""

import gc
import itertools

import numpy as np
import pytest
import torch
from hand_network import FIRST, SECOND, ByHand, by_hand, prepared
from randomised import randomise
from torch import nn

from mmprune.errors import InputError
from mmprune.importance import (
    ActivationImportance,
    APoZImportance,
    GroupFisherImportance,
    HessianImportance,
    L1Importance,
    TaylorImportance,
    VarianceImportance,
)
from mmprune.registry import PRUNERS


def output(model, batch):
    """The network's only number as its loss."""
    return model(batch).sum()


def half_square(model, batch):
    return model(batch).square().sum() / 2


def collected(importance, batches, loss_fn, model=None, pruner=None):
    if model is None:
        model, pruner, _ = by_hand()
    importance.collect(model, pruner.channel_groups, batches, loss_fn)
    return importance


def scores(importance, batches, loss_fn=output):
    model, pruner, group = by_hand()
    collected(importance, batches, loss_fn, model, pruner)
    return importance.scores(group, model).tolist()


# The output is s[0] * D[0] * (A + B)[0] + s[1] * D[1] * (A + B)[1] with s[c] the sum over the
# pixels of F[c, p] * x[p]: s = (1, 4.5) for the first batch, (-2, 1) for the second. So weight
# times gradient is, per channel of a, b, d and fc:
FIRST_TERMS = np.array([[-1.0, -18.0], [-3.0, 2.25], [-4.0, -15.75], [-4.0, -15.75]])
SECOND_TERMS = np.array([[2.0, -4.0], [6.0, 0.5], [8.0, -3.5], [8.0, -3.5]])


def test_taylor_of_one_batch():
    assert scores(TaylorImportance(), [FIRST]) == np.abs(FIRST_TERMS).sum(0).tolist() == [12, 51.75]


def test_taylor_is_the_mean_over_batches_of_absolute_values():
    expected = (np.abs(FIRST_TERMS) + np.abs(SECOND_TERMS)).sum(0) / 2
    assert scores(TaylorImportance(), [FIRST, SECOND]) == expected.tolist()
    importance = TaylorImportance()
    scores(importance, [FIRST])
    assert scores(importance, [SECOND]) == expected.tolist()
    assert importance.num_batches == 2
    importance.reset()
    assert scores(importance, [FIRST]) == [12, 51.75]


def test_taylor_squared():
    expected = (np.square(FIRST_TERMS) + np.square(SECOND_TERMS)).sum(0) / 2
    assert scores(TaylorImportance(squared=True), [FIRST, SECOND]) == expected.tolist()


def test_taylor_per_weight():
    """Only the linear layer has several weights per channel: |F[c, p] * x[p] * D * (A + B)|."""
    fc = [(2 + 1) * 4, (4 + 0.5) * 3.5]
    expected = np.abs(FIRST_TERMS[:3]).sum(0) + fc
    assert scores(TaylorImportance(per='weight'), [FIRST]) == expected.tolist()


def test_taylor_reduced_over_members():
    found = scores(TaylorImportance(reduction='max', members='outputs'), [FIRST])
    assert found == np.abs(FIRST_TERMS[:3]).max(0).tolist()


class AllSigns(HessianImportance):
    """Every vector of signs once: the estimate is exact."""

    def __init__(self, sizes):
        super().__init__(num_draws=2 ** sum(sizes))
        every = itertools.product([-1.0, 1.0], repeat=sum(sizes))
        self.drawn = (part for signs in every for part in torch.tensor(signs).split(sizes))

    def signs(self, tensor):
        return next(self.drawn).to(tensor).reshape(tensor.shape)


def test_hessian_diagonal():
    """The output is linear in each weight, so half its square has the second derivative
    (d output / d weight) squared, and half of weight squared times that is half the squared
    product of weight and gradient."""
    importance = AllSigns([2, 2, 2, 4])
    found = scores(importance, [FIRST], half_square)
    columns = np.array([[2 * 4, 1 * 4], [4 * 3.5, 0.5 * 3.5]])  # |F * x * D * (A + B)|
    expected = (np.square(FIRST_TERMS[:3]).sum(0) + np.square(columns).sum(1)) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_hessian_where_it_is_diagonal():
    """A loss that is a sum over weights needs one draw, whatever the signs are."""

    def loss(model, batch):
        return sum(p.pow(4).sum() for p in model.parameters()) * batch

    # w^2 / 2 * 12 w^2 * batch, mean of the batches 1 and 3.
    a, b, d, f = [1, 16], [81, 0.25**4], [1, 16], [2, 16 + 0.5**4]
    expected = 6 * 2 * np.sum([a, b, d, f], axis=0)
    for seed in range(3):
        found = scores(HessianImportance(seed=seed), [1.0, 3.0], loss)
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_hessian_of_a_loss_that_is_linear_is_zero():
    assert scores(HessianImportance(), [FIRST], lambda m, x: m.fc.weight.sum()) == [0, 0]


def test_hessian_draws_again_what_it_drew():
    importance = HessianImportance(num_draws=2, seed=5)
    first = scores(importance, [FIRST, SECOND], half_square)
    importance.reset()
    assert scores(importance, [FIRST, SECOND], half_square) == first
    assert scores(HessianImportance(num_draws=2, seed=6), [FIRST, SECOND], half_square) != first


def test_hessian_through_fused_attention():
    """Its fused kernel has no second derivative."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            mixed = nn.functional.scaled_dot_product_attention(x, x, self.value(x))
            return self.last(mixed)

    model = randomise(Attention())
    data = torch.rand(1, 5, 3)
    pruner, group = prepared(model, data)
    importance = collected(HessianImportance(), [data], half_square, model, pruner)
    assert np.abs(importance.scores(group, model)).min() > 0


# -- Fisher information of shared masks --------------------------------------------------


def mean_output(model, batch):
    return model(batch).mean()


def test_group_fisher():
    """Per image, channel c has (A + B)[c] * D[c] * s[c] from the depthwise filter, and the same
    from the linear layer; together they are squared, and summed over the images."""
    terms = 2 * np.array([[-4.0, -15.75], [8.0, -3.5]])
    assert scores(GroupFisherImportance(), [FIRST]) == (terms[0] ** 2).tolist() == [64, 992.25]
    expected = (terms**2).sum(0).tolist()
    assert scores(GroupFisherImportance(), [FIRST, SECOND]) == expected
    together = [torch.cat([FIRST, SECOND])]
    assert scores(GroupFisherImportance(), together, mean_output) == expected


class Coupled(nn.Module):
    """A stream that is added to, read by two layers at once, by one twice, and behind a flatten."""

    def __init__(self):
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 1, groups=2)
        self.inner, self.back = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.fc = nn.Linear(6 * 16, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.back(self.inner(x).relu()) + self.grouped(x)
        x = x + self.back(self.inner(x).relu())
        return self.fc(x.flatten(1))


def masked_gradients(model, readers, image, loss_fn):
    """By group, the gradient of one image's loss with respect to a mask in front of all readers."""
    masks = {}

    def hook_of(name):
        def hook(module, inputs):
            size = dict(stem=6, inner=4)[name]
            mask = masks.setdefault(name, torch.ones(size).double().requires_grad_())
            data = inputs[0]
            if data.dim() == 2:
                return data * mask.repeat_interleave(data.shape[1] // size)
            return data * mask.view(1, -1, 1, 1)

        return hook

    handles = [
        getattr(model, layer).register_forward_pre_hook(hook_of(group))
        for group, layers in readers.items()
        for layer in layers
    ]
    loss = loss_fn(model, image)
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(loss, masks.values())
    return {name: each.numpy() for name, each in zip(masks, gradients, strict=True)}


def mean_square(model, batch):
    return model(batch).square().sum(1).mean()


def test_group_fisher_is_that_of_one_mask_in_front_of_all_readers():
    model = randomise(Coupled().double())
    data = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, data)
    importance = collected(
        GroupFisherImportance(), [data[:3], data[3:]], mean_square, model, pruner
    )
    readers = dict(stem=['inner', 'grouped', 'fc'], inner=['back'])
    gradients = [masked_gradients(model, readers, image[None], mean_square) for image in data]
    for name in readers:
        expected = sum(each[name] ** 2 for each in gradients)
        found = importance.scores(pruner.channel_groups[name], model)
        np.testing.assert_allclose(found, expected, rtol=1e-10)
        assert np.ptp(found) > 0


@pytest.mark.parametrize('execution', ['slice', 'mask'])
def test_group_fisher_listens_to_training_steps(execution):
    """What a step of training computes anyway is enough, also as a subnet."""
    model = randomise(Coupled().double())
    data = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], execution=execution))
    pruner.prepare_from_supernet(model, data)
    pruner.set_min_channel()
    expected = collected(GroupFisherImportance(), [data], mean_square, model, pruner)
    heard = GroupFisherImportance()
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    with heard.listening(model, pruner.channel_groups):
        mean_square(model, data).backward()
    assert heard.num_batches == 1
    for name, mask in pruner.current_subnet().items():
        group, lost = pruner.channel_groups[name], mask.flatten().numpy() == 0
        found = heard.scores(group, model)
        np.testing.assert_allclose(found, expected.scores(group, model), rtol=1e-12)
        assert (found[lost] == 0).all()
        assert (found[~lost] > 0).all()
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks


class Windows(nn.Module):
    """Tokens of (batch, windows, tokens, channels) as (batch * windows, tokens, channels)."""

    def __init__(self, first):
        super().__init__()
        self.first = first
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x).relu()
        return self.b(x.reshape(self.first, -1, x.shape[-1])).reshape(len(x), -1)


def test_images_are_told_apart_in_windows_or_not_at_all():
    data = torch.randn(2, 3, 2, 3).double()
    model = randomise(Windows(6).double())
    pruner, group = prepared(model, data)
    together = collected(GroupFisherImportance(), [data], mean_square, model, pruner)
    model.first = 3
    one_by_one = [image[None] for image in data]
    alone = collected(GroupFisherImportance(), one_by_one, mean_square, model, pruner)
    np.testing.assert_allclose(
        together.scores(group, model), alone.scores(group, model), rtol=1e-10
    )
    with pytest.raises(InputError, match=r"group 'a': .* the 2 images of a batch .* \(3, 4, 4\)"):
        collected(GroupFisherImportance(), [data], mean_square, model, pruner)
    heard = GroupFisherImportance()
    with heard.listening(model, pruner.channel_groups):
        mean_square(model, data).backward()
    assert heard.num_batches == 0


def test_listening_leaves_no_tensors_behind():
    model = randomise(Coupled().double())
    data = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, data)
    heard, alive = GroupFisherImportance(), []
    for _ in range(4):
        with heard.listening(model, pruner.channel_groups):
            mean_square(model, data).backward()
        gc.collect()
        alive.append(sum(issubclass(type(held), torch.Tensor) for held in gc.get_objects()))
    assert alive[1:] == alive[1:2] * 3


def test_frozen_layers_are_heard_too():
    """Detectors train with the first stages frozen; their weights get no gradients."""
    model = randomise(Coupled().double())
    data = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0]))
    pruner.prepare_from_supernet(model, data)
    expected = collected(GroupFisherImportance(), [data], mean_square, model, pruner)
    for layer in (model.stem, model.inner):
        layer.requires_grad_(False)
    heard = GroupFisherImportance()
    with heard.listening(model, pruner.channel_groups):
        mean_square(model, data).backward()
    for name in pruner.channel_spaces:
        group = pruner.channel_groups[name]
        np.testing.assert_allclose(
            heard.scores(group, model), expected.scores(group, model), rtol=1e-12
        )
    assert all(parameter.grad is None for parameter in model.inner.parameters())


# -- activations -------------------------------------------------------------------------


class TwoReaders(nn.Module):
    """Two channels behind a ReLU, read by a convolution and, flattened, by a linear layer."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.read, self.fc = nn.Conv2d(2, 3, 1), nn.Linear(8, 2)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([1.0, -2]).reshape(2, 1, 1, 1))
        self.norm.eps = 0

    def forward(self, x):
        x = self.norm(self.a(x)).relu()
        return self.read(x), self.fc(nn.functional.max_pool2d(x, (1, 2)).flatten(1))


# The channels are x and -2 x, at least 0.
IMAGES = torch.tensor([[1.0, 0, -3, 2, -1, -1, 0, 4], [5, 0, 0, 0, 0, 0, 0, 0]])
IMAGES = IMAGES.reshape(2, 1, 4, 2).double()


def activations(importance, batches, model=None, pruner=None):
    model = TwoReaders().double() if model is None else model
    if pruner is None:
        pruner, _ = prepared(model, IMAGES)
    collected(importance, batches, lambda m, x: m(x), model, pruner)
    return importance.scores(pruner.channel_groups['a'], model).tolist()


def test_mean_magnitude_of_activations():
    """Before the pooling 1 + 2 + 4 + 5 = 12 and 2 * (3 + 1 + 1) = 10 of 16 pixels; the maxima of
    pairs are 1, 2, 0, 4 and 5 for the first channel, 0, 6, 2, 0 and 0 for the second, of 8."""
    before, behind = np.array([12, 10]) / 16, np.array([12, 8]) / 8
    assert activations(ActivationImportance(), [IMAGES]) == (before + behind).tolist()
    assert activations(ActivationImportance(reduction='max'), [IMAGES]) == behind.tolist()
    one_by_one = [IMAGES[:1], IMAGES[1:]]
    assert activations(ActivationImportance(), one_by_one) == (before + behind).tolist()


def test_share_of_zeros():
    """Four of 16 pixels are above zero for the first channel and three for the second."""
    before, behind = np.array([4, 3]) / 16, np.array([4, 2]) / 8
    assert activations(APoZImportance(), [IMAGES]) == (before + behind).tolist()
    assert activations(APoZImportance(reduction='first'), [IMAGES]) == before.tolist()


def test_variance_of_activations():
    """Sums of squares are 1 + 4 + 16 + 25 = 46 and 4 * (9 + 1 + 1) = 44 of 16 pixels, and 46
    and 36 + 4 = 40 of 8 pooled ones, however they come in batches."""
    before = np.array([46, 44]) / 16 - (np.array([12, 10]) / 16) ** 2
    behind = np.array([46, 40]) / 8 - (np.array([12, 8]) / 8) ** 2
    for batches in ([IMAGES], [IMAGES[:1], IMAGES[1:]]):
        found = activations(VarianceImportance(), batches)
        np.testing.assert_allclose(found, before + behind, rtol=1e-12)
    found = activations(VarianceImportance(reduction='first'), [IMAGES])
    np.testing.assert_allclose(found, before, rtol=1e-12)


def test_a_channel_that_does_not_vary_has_no_variance():
    model = TwoReaders().double()
    with torch.no_grad():
        model.norm.weight[0], model.norm.bias[0] = 0, 1e3
    pruner, _ = prepared(model, IMAGES)
    steady, other = activations(VarianceImportance(), [IMAGES], model, pruner)
    assert 0 <= steady < 1e-9 < other


class Convolutions(nn.Module):
    """Six channels, read by grouped, depthwise, transposed and unbatched convolutions."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 6, 1)
        self.grouped, self.deep = nn.Conv2d(6, 4, 1, groups=2), nn.Conv2d(6, 6, 1, groups=6)
        self.transposed = nn.ConvTranspose2d(6, 4, 2, groups=2)
        self.last = nn.Conv2d(6, 1, 1)

    def forward(self, x):
        x = self.a(x)
        return self.grouped(x), self.last(self.deep(x)), self.transposed(x), self.last(x[0])


def test_every_kind_of_reading_layer():
    model = randomise(Convolutions().double())
    data = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    pruner, group = prepared(model, data)
    importance = collected(ActivationImportance(), [data], lambda m, x: m(x), model, pruner)
    with torch.no_grad():
        read = model.a(data)
        behind = torch.cat([model.deep(read), read[:1]])  # the two calls of the last layer
    mean = read.abs().mean((0, 2, 3))
    expected = {'grouped': mean, 'deep': mean, 'transposed': mean}
    expected['last'] = behind.abs().mean((0, 2, 3))
    found = {m.source.partition('.')[0]: m for m in importance.member_scores(group, model)}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].values, values.numpy(), rtol=1e-12)
        assert found[name].has.all()


def test_a_group_that_no_layer_reads_is_refused():
    class Unread(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 4, 1)

        def forward(self, x):
            return self.a(x).relu().mean(1)

    model = Unread()
    pruner, group = prepared(model, torch.rand(1, 1, 2, 2))
    importance = collected(
        ActivationImportance(), [torch.rand(1, 1, 2, 2)], lambda m, x: m(x), model, pruner
    )
    with pytest.raises(InputError, match=r"group 'a': ActivationImportance finds nothing"):
        importance.scores(group, model)


# -- subnets, state, refusals ------------------------------------------------------------


@pytest.mark.parametrize('execution', ['slice', 'mask'])
@pytest.mark.parametrize(
    'kind',
    [
        TaylorImportance, HessianImportance, ActivationImportance, APoZImportance,
        VarianceImportance, GroupFisherImportance,
    ],
)  # fmt: skip
def test_channels_that_the_subnet_lacks_add_nothing(kind, execution):
    model = randomise(Convolutions().double())
    images = 1 if kind is GroupFisherImportance else 3  # one layer reads the first image alone
    data = torch.randn(images, 1, 2, 2, dtype=torch.float64)
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[0.5, 1.0], execution=execution))
    pruner.prepare_from_supernet(model, data)
    mask = torch.tensor([0.0, 1, 1, 1, 0, 1]).reshape(1, 6, 1, 1)
    pruner.set_subnet({'a': mask})

    def loss(model, batch):
        return sum(out.square().sum() for out in model(batch))

    importance = collected(kind(), [data], loss, model, pruner)
    found = importance.scores(pruner.channel_groups['a'], model)
    kept = mask.flatten().bool().numpy()
    assert (found[~kept] == 0).all()
    assert (found[kept] != 0).all()
    # What is kept scores as in the deployed network.
    small = pruner.deploy_subnet(model, pruner.export_subnet())
    alone = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0]))
    alone.prepare_from_supernet(small, data)
    if kind is not HessianImportance:  # draws signs for more weights
        deployed = collected(kind(), [data], loss, small, alone)
        expected = deployed.scores(alone.channel_groups['a'], small)
        np.testing.assert_allclose(found[kept], expected, rtol=1e-10)


@pytest.mark.parametrize(
    'kind',
    [TaylorImportance, HessianImportance, ActivationImportance, GroupFisherImportance],
)
def test_collecting_leaves_the_model_as_it_was(kind):
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 2, 1))
    data = torch.rand(2, 1, 3, 3)
    pruner, _ = prepared(model, data)
    model.train()
    model[2].eval()
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    importance = collected(kind(), [data, data], half_square, model, pruner)
    assert importance.num_batches == 2
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [m.training for m in model] == [True, True, False, True]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert (model[3].weight.grad == 1).all()
    assert model[0].weight.grad is None
    assert not any(m._forward_pre_hooks for m in model)


def test_scoring_before_collecting_is_refused():
    model, _, group = by_hand()
    for kind in (TaylorImportance, HessianImportance, ActivationImportance, APoZImportance):
        with pytest.raises(InputError, match=rf'{kind.__name__} has seen no data: call'):
            kind().scores(group, model)


def test_a_network_without_prunable_channels():
    model = nn.Sequential(nn.Conv2d(1, 2, 1)).double()
    pruner = PRUNERS.build(dict(type='RatioPruner', ratios=[1.0]))
    pruner.prepare_from_supernet(model, FIRST)
    for kind in (TaylorImportance, HessianImportance, ActivationImportance):
        assert collected(kind(), [FIRST], output, model, pruner).num_batches == 1


def test_no_batches():
    importance = TaylorImportance()
    with pytest.raises(InputError, match='TaylorImportance: there are no batches'):
        scores(importance, [])
    assert importance.num_batches == 0


def test_another_network_than_the_one_that_was_watched():
    importance = TaylorImportance()
    scores(importance, [FIRST])
    model = ByHand()
    model.a, model.b = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)
    model.d, model.fc = nn.Conv2d(3, 3, 1, groups=3), nn.Linear(6, 1)
    _, group = prepared(model.double(), FIRST)
    with pytest.raises(InputError, match='has seen 2 channels of it, but it has 3'):
        importance.scores(group, model)


def test_a_gradient_that_is_no_number_is_named():
    def loss(model, batch):
        return (model.b.weight - model.b.weight.detach()).sum().abs().sqrt() + model(batch).sum()

    importance = TaylorImportance()
    with pytest.raises(
        InputError, match=r"group 'a': 2 of the 2 numbers .* takes from 'b\.weight' in a batch"
    ):
        scores(importance, [FIRST], loss)
    assert importance.num_batches == 0
    assert not importance.sums


def test_an_image_that_is_no_number_is_named():
    with pytest.raises(InputError, match=r"ActivationImportance takes from '(read|fc)\.weight'"):
        activations(ActivationImportance(), [IMAGES * float('nan')])


@pytest.mark.parametrize('kind', [TaylorImportance, HessianImportance])
@pytest.mark.parametrize(
    ('loss_fn', 'message'),
    [
        (lambda m, x: m(x) * float('inf'), 'the loss of a batch is (-?inf|nan)'),
        (lambda m, x: m.fc.weight, 'must return a scalar that depends on the parameters'),
        (lambda m, x: m(x).detach(), 'must return a scalar that depends on the parameters'),
        (lambda m, x: dict(loss=m(x)), 'must return a scalar .* not {'),
    ],
)
def test_a_loss_that_is_none(kind, loss_fn, message):
    with pytest.raises(InputError, match=message):
        scores(kind(), [FIRST], loss_fn)


def test_options_that_make_no_sense():
    with pytest.raises(InputError, match="per must be 'channel' or 'weight', not 'filter'"):
        TaylorImportance(per='filter')
    with pytest.raises(InputError, match='num_draws must be at least 1, not 0'):
        HessianImportance(num_draws=0)


def test_scores_of_weights_need_no_data():
    model, _, group = by_hand()
    assert L1Importance().scores(group, model).tolist() == [7, 6.75]
