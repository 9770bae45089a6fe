"""Network slimming: the threshold by hand, how it is enforced, and beside the usual scripts."""

import logging

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from mmprune.errors import InputError
from mmprune.registry import MODELS, PRUNERS

IMAGE = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()


class Small(nn.Module):
    """A stem and a block that are added up, four channels, and a layer of two."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)
        self.conv2, self.bn2 = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.bn0(self.stem(x)).relu()
        x = x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return self.fc(x.mean((2, 3)))


STREAM = ([0.1, -0.9, 0.3, 0.2], [0.5, 0.1, -0.05, 0.2])  # of the stem, of the block
INNER = [0.4, -0.6]
# Largest of the stream: 0.5, 0.9, 0.3, 0.2. With INNER, sorted: 0.2, 0.3, 0.4, 0.5, 0.6, 0.9.


def small(**options):
    torch.manual_seed(0)
    model = Small().double().eval()
    with torch.no_grad():
        for norm, scales in ((model.bn0, STREAM[0]), (model.bn2, STREAM[1]), (model.bn1, INNER)):
            norm.weight.copy_(torch.tensor(scales, dtype=torch.float64))
    pruner = PRUNERS.build(dict(type='NetworkSlimming', **options))
    pruner.prepare_from_supernet(model, IMAGE)
    return model, pruner


def kept(subnet):
    return {name: mask.flatten().nonzero().flatten().tolist() for name, mask in subnet.items()}


def test_threshold_by_hand():
    # The place of 0.4 of 6 sorted scales is 2, so that 0.2 and 0.3 go.
    _, pruner = small(percent=0.4)
    found = pruner.threshold()
    assert (found.value, found.count) == (0.4, 6)
    # The inner layer keeps one channel up to 0.6, below which are four of six scales.
    assert (found.highest, found.group) == (0.6, 'conv1')
    assert found.highest_percent == pytest.approx(4 / 6)
    assert found.is_safe
    assert kept(pruner.prune()) == {'stem': [0, 1], 'conv1': [0, 1]}
    assert pruner.remaining_channels() == [('bn0', 4, 2), ('bn1', 2, 2), ('bn2', 4, 2)]
    assert pruner.verify_subnet(subnet=pruner.current_subnet()).ok


def test_scales_are_compared_as_they_are():
    """Twice the scales of a layer are another decision: nothing is normalised."""
    model, pruner = small(percent=0.4)
    with torch.no_grad():
        model.bn1.weight.mul_(0.1)  # 0.04 and 0.06 are the smallest now
    pruner.beyond = 'clamp'
    assert kept(pruner.prune())['conv1'] == [1]
    assert kept(pruner.current_subnet())['stem'] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ('reduction', 'stream'),
    [
        ('max', [0.5, 0.9, 0.3, 0.2]),
        ('sum', [0.6, 1.0, 0.35, 0.4]),
        ('first', [0.1, 0.9, 0.3, 0.2]),
    ],
)
def test_scales_of_a_residual_are_one_number(reduction, stream):
    _, pruner = small(percent=0.2, reduction=reduction)
    scores = pruner._decided_scores(regrow=True)
    np.testing.assert_allclose(scores['stem'], stream, rtol=1e-6)
    np.testing.assert_allclose(scores['conv1'], np.abs(INNER), rtol=1e-6)


def test_residuals_can_be_skipped():
    _, pruner = small(percent=0.5, residual='skip')
    assert list(pruner.decided) == ['conv1']
    assert 'made by 2 layers (stem, conv2' in pruner.undecided['stem']
    assert pruner.threshold().count == 2
    assert kept(pruner.prune()) == {'stem': [0, 1, 2, 3], 'conv1': [1]}
    assert 'stem is made by 2 layers' in pruner.layer_table()


def test_a_depthwise_layer_is_no_residual():
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)),
    )
    pruner = PRUNERS.build(dict(type='NetworkSlimming', residual='skip'))
    pruner.prepare_from_supernet(model.double(), IMAGE)
    assert list(pruner.decided) == ['0']
    assert not pruner.undecided


def test_a_threshold_that_empties_a_layer_is_refused():
    model, pruner = small(percent=0.9)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    message = (
        r'would be emptied. threshold 0\.9 \(percent 0\.9 of 6 scales\); the highest safe '
        r"threshold is 0\.6, set by conv1, which allows percent 0\.6667. .* beyond='clamp'"
    )
    with pytest.raises(InputError, match=message):
        pruner.prune()
    assert all(mask.all() for mask in pruner.current_subnet().values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_percent_that_is_allowed_is_allowed():
    _, pruner = small(percent=0.6667)
    assert kept(pruner.prune()) == {'stem': [1], 'conv1': [1]}
    _, beyond = small(percent=0.84)  # the place of the next scale, 0.9
    with pytest.raises(InputError, match='would be emptied'):
        beyond.prune()


@pytest.fixture
def log(tmp_path):
    """What is logged, in a file."""
    MMLogger.get_instance('slimming', log_file=str(tmp_path / 'log'), log_level=logging.INFO)
    yield tmp_path / 'log'
    for handler in MMLogger.get_current_instance().handlers:
        handler.close()
    MMLogger._instance_dict.clear()


def test_clamped_to_the_highest_safe_threshold(log):
    _, pruner = small(percent=0.9, beyond='clamp')
    assert kept(pruner.prune()) == {'stem': [1], 'conv1': [1]}
    text = log.read_text()
    assert 'highest safe threshold is 0.6, set by conv1, which allows percent 0.6667' in text
    assert 'Clamped to the highest safe threshold' in text
    assert 'origin channels' in text
    assert 'folded into' in text
    row = next(line for line in text.splitlines() if 'bn0' in line)
    assert [word for word in row.split() if word.isalnum()] == ['bn0', '4', '1']


def test_floor_is_part_of_the_limit():
    _, pruner = small(percent=0.5, min_channels=2, beyond='clamp')
    # The stream's second largest is 0.5; the inner layer keeps both channels, its smaller is 0.4.
    assert pruner.threshold().highest == 0.4
    assert kept(pruner.prune()) == {'stem': [0, 1], 'conv1': [0, 1]}


def test_groups_without_a_scale_stay_whole():
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
        nn.Conv2d(4, 2, 1),
    ).double()
    with torch.no_grad():
        model[3].weight.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    pruner = PRUNERS.build(dict(type='NetworkSlimming', percent=0.5))
    pruner.prepare_from_supernet(model, IMAGE)
    assert pruner.undecided == {'0': 'has no norm with a scale'}
    assert kept(pruner.prune()) == {'0': [0, 1, 2, 3], '2': [0, 1]}


def test_in_steps_what_is_gone_stays_gone():
    model, pruner = small(percent=0.5)
    pruner.prune(progress=0.5, regrow=False)  # one of six: the stream's last one, 0.2
    assert kept(pruner.current_subnet())['stem'] == [0, 1, 2]
    with torch.no_grad():
        model.bn2.weight[3] = 2.0
    subnet = kept(pruner.prune(progress=1, regrow=False))
    assert subnet == {'stem': [0, 1], 'conv1': [1]}


def test_as_the_usual_scripts_do_it():
    """YOLOv5s: all scales but those of residual blocks, sorted; kept is what is not below."""
    torch.manual_seed(0)
    model = MODELS.build(dict(_scope_='mmprune', type='YOLOv5', num_classes=4)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 0.5, 0.3)
    inside = [n for n, module in model.named_modules() if getattr(module, 'shortcut', False)]
    left_out = {f'{name}.{part}.bn' for name in inside for part in ('cv1', 'cv2')}
    left_out |= {f'{name.rpartition(".m.")[0]}.cv1.bn' for name in inside}
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    ordered = torch.cat(
        [m.weight.detach().abs() for n, m in norms.items() if n not in left_out]
    ).sort()[0]
    threshold = ordered[int(len(ordered) * 0.6)]
    pruner = PRUNERS.build(
        dict(
            type='NetworkSlimming',
            percent=0.6,
            residual='skip',
            except_start_keys=[f'{name}.cv1' for name in inside],
            fold_shifts=False,
        )
    )
    pruner.prepare_from_supernet(model, torch.rand(1, 3, 32, 32))
    pruner.prune()
    found = pruner.threshold()
    assert found.value == pytest.approx(float(threshold))
    assert found.count == len(ordered)
    for name, norm in norms.items():
        stays = torch.ones(norm.num_features, dtype=torch.bool)
        if name not in left_out:
            stays = norm.weight.abs() >= threshold
        mask = getattr(norm, 'out_mask', torch.ones(norm.num_features))  # pinned: no mask
        assert torch.equal(mask.flatten() != 0, stays), name


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(percent=1.0), r'percent is the share .* not 1\.0'),
        (dict(percent=-0.1), r'not -0\.1'),
        (dict(percent=True), 'not True'),
        (dict(percent='half'), "not 'half'"),
        (dict(residual='drop'), "residual must be 'share' or 'skip', not 'drop'"),
        (dict(beyond='ignore'), "beyond must be 'error' or 'clamp', not 'ignore'"),
        (dict(reduction='median'), "reduction must be one of .* not 'median'"),
        (dict(min_channels=0), 'min_channels: expected a whole number from 1, found 0'),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        PRUNERS.build(dict(type='NetworkSlimming', **options))


def test_a_network_without_scales_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    pruner = PRUNERS.build(dict(type='NetworkSlimming'))
    with pytest.raises(InputError, match=r'no norm with a scale .* any of the 1 prunable groups'):
        pruner.prepare_from_supernet(model, IMAGE)


def test_scales_that_are_not_finite_are_refused():
    model, pruner = small(percent=0.4)
    with torch.no_grad():
        model.bn1.weight[0] = float('nan')
    with pytest.raises(InputError, match=r"1 of the 2 numbers of 'bn1\.weight' are NaN"):
        pruner.prune()
