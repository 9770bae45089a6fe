"""Networks of mmcls that between them have every mechanism: exact, small, and counted right."""

import copy
import io
import json

import pytest
import torch
from torch import nn

from mmprune.errors import InputError
from mmprune.zoo import ZOO, ZooResult, build, check_model, images, resolve
from mmprune.zoo.check import measure, problems_of
from mmprune.zoo.table import pinned_text, run_zoo, zoo_table

# mmcv tells about a default that it changed years ago, whenever the activation is built.
pytestmark = pytest.mark.filterwarnings('ignore:In MMCV v1.4.4:UserWarning')

# What each is here for.
FAST = {
    'resnet18': 'residuals',
    'seresnet50': 'channel attention',
    'mobilenet_v3/mobilenet_v3_small_imagenet': 'depthwise convolutions, hard swish',
    'densenet/densenet121': 'nested concatenations, norms after them',
    'hrnet/hrnet-w18': 'branches that are summed across resolutions',
    'convnext/convnext-tiny': 'layer norms, layer scales, linear layers on channels-last maps',
    'regnet/regnetx_400mf': 'grouped convolutions',
    'repvgg-A0_in1k': 'parallel branches, norms without a convolution',
}


@pytest.mark.parametrize('name', FAST)
def test_exact_small_and_counted_right(name):
    result = check_model(name)
    assert result.slice_error <= 1e-10
    assert result.mask_error <= 1e-10
    assert result.independent_error <= 1e-10
    assert result.single_error <= 1e-5
    assert result.signal > 1e-4, 'an output near zero, or one that hardly depends on the channels'
    assert result.scattered > 0.9, 'kept channels are the first ones'
    assert 0.2 < result.params[1] / result.params[0] <= ZOO[name]
    assert set(result.pinned.values()) == {'output of the network', 'is an input of the network'}
    # Among other things: costs equal what torch counts, to the unit.
    assert result.problems == ()


@pytest.mark.parametrize('name', ['resnet18', 'convnext/convnext-tiny'])
def test_deployed_is_plain_small_and_separate(name):
    original = build(name)
    batch = images(original)
    model = copy.deepcopy(original)
    deployed = measure(model, batch, 0.5, 0).deployed
    for module, kind in zip(deployed.modules(), original.modules(), strict=True):
        assert type(module) is type(kind)
        assert module.__dict__.keys() == kind.__dict__.keys()
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert deployed.state_dict().keys() == original.state_dict().keys()
    storages = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    for tensor in deployed.state_dict().values():
        assert tensor.untyped_storage().data_ptr() not in storages
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    assert size_of_file(deployed) < 0.3 * size_of_file(original)


def size_of_file(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return len(file.getvalue())


def test_a_missed_bar_is_told():
    good = check_model('resnet18')
    for change, message in (
        (dict(slice_error=2e-10), 'sliced supernet is 2.0e-10 off'),
        (dict(mask_error=float('inf')), 'masked supernet is inf off'),
        (dict(independent_error=float('nan')), 'full network with zeros is nan off'),
        (dict(single_error=2e-5), 'float32 is 2.0e-05 off'),
        (dict(signal=1e-9), 'too little to prove anything'),
        (dict(scattered=0.5), 'only 50% of the groups'),
        (dict(params=(100, 41)), 'keeps 0.410 of the parameters, allowed 0.4'),
        (dict(pinned={'a': 'goes through sort'}), 'pins more than inputs and outputs: a'),
    ):
        values = {**{key: getattr(good, key) for key in good.__dataclass_fields__}, **change}
        (problem,) = problems_of(ZooResult(**values), 0.5)
        assert message in problem


def test_the_tool_prints_one_table_and_writes_a_file(tmp_path, capsys):
    (result,) = run_zoo(['resnet18'], ratio=0.25, seed=3, json_path=tmp_path / 'zoo.json')
    printed = capsys.readouterr().out
    assert 'resnet18' in printed
    assert '1 of 1 networks pass' in printed
    written = json.loads((tmp_path / 'zoo.json').read_text())
    assert written['ratio'] == 0.25
    assert written['results'][0]['params'] == list(result.params)
    assert result.params[1] / result.params[0] < 0.1
    assert zoo_table([result], 0.25).row_count == 1


def test_the_table_tells_why_groups_are_pinned():
    reasons = ['output of the network', 'odd', 'odd', 'even', 'strange', 'rare']
    values = dict.fromkeys(ZooResult.__dataclass_fields__, 1.0)
    result = ZooResult(**{**values, 'pinned': dict(enumerate(reasons))})
    assert pinned_text(result) == '2 odd, 1 output, 1 even, 2 for other reasons'


@pytest.mark.parametrize(
    ('name', 'message'),
    [('resnet1', 'similar ones: .*resnet18'), ('nothing-like-it', 'they are in .*_base_')],
    ids=['similar', 'unlike'],
)
def test_an_unknown_network_is_refused_before_anything_runs(name, message, capsys):
    with pytest.raises(InputError, match=f"no model config '{name}'; {message}"):
        run_zoo(['resnet18', name])
    assert capsys.readouterr().out == ''


def test_names_may_leave_out_the_folder():
    assert resolve('hrnet-w18') == 'hrnet/hrnet-w18'
    assert resolve('convnext/convnext-tiny') == 'convnext/convnext-tiny'
    assert all(resolve(name) == name for name in ZOO)
    assert len(ZOO) == 28


def test_a_network_that_takes_no_image_of_that_size_is_refused():
    with pytest.raises(InputError, match='ImageClassifier cannot be run on images of size 0'):
        images(build('resnet18'), size=0)
