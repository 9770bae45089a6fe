"""Networks of mmcls that between them have every mechanism: exact, small, and counted right."""

import copy
import io
import json

import pytest
import torch
import torch.nn.functional as F
from small_classifiers import SMALL
from torch import nn

from mmprune.errors import InputError
from mmprune.zoo import ZOO, Plan, ZooResult, build, check_model, images, resolve
from mmprune.zoo.check import check_network, measure, problems_of
from mmprune.zoo.models import build_config
from mmprune.zoo.networks import law
from mmprune.zoo.running import counted_run
from mmprune.zoo.table import pinned_text, run_zoo, zoo_table

# mmcv tells about a default that it changed years ago, whenever the activation is built.
pytestmark = pytest.mark.filterwarnings('ignore:In MMCV v1.4.4:UserWarning')

# What each is here for; the others are run by make zoo.
FAST = {
    'mobilenet_v3/mobilenet_v3_small_imagenet': 'depthwise convolutions, hard swish',
}


@pytest.mark.parametrize('name', FAST)
def test_exact_small_and_counted_right(name):
    result = check_model(name)
    assert_exact(result)
    assert 0.2 < result.kept <= ZOO[name]
    assert set(result.pinned.values()) == {'output of the network', 'is an input of the network'}
    # Among other things: costs equal what torch counts, to the unit.
    assert result.problems == ()


def assert_exact(result):
    assert result.slice_error <= 1e-10
    assert result.mask_error <= 1e-10
    assert result.independent_error <= 1e-10
    assert result.single_error <= 1e-5
    assert result.signal > 1e-4, 'an output near zero, or one that hardly depends on the channels'
    assert result.scattered > 0.9, 'kept channels are the first ones'


@pytest.mark.parametrize('mechanism', SMALL)
def test_mechanisms_are_exact(mechanism):
    result = check_network(build_config(SMALL[mechanism]), mechanism, Plan())
    assert_exact(result)
    assert result.problems == ()
    assert result.kept < 0.45


@pytest.mark.parametrize('attention', ['heads', 'dims'])
def test_attention_loses_what_the_plan_says(attention):
    original = build_config(SMALL['class token, position embedding'])
    batch, plan = images(original), Plan(attention=attention)
    numbers = measure(original, batch, plan).pruner.export_subnet()['backbone.layers.0.attn']
    changed = {name: part['kept'] for name, part in numbers['attributes'].items()}
    lost = {'heads': 'num_heads', 'dims': 'head_dims'}[attention]
    assert changed.pop(lost) < numbers['attributes'][lost]['raw']
    assert {'heads': 'head_dims', 'dims': 'num_heads'}[attention] not in changed


@pytest.mark.parametrize(
    'mechanism', ['class token, position embedding', 'shifted windows, relative positions']
)
def test_dims_of_heads_are_exact(mechanism):
    plan = Plan(attention='dims')
    result = check_network(build_config(SMALL[mechanism]), mechanism, plan)
    assert_exact(result)
    assert result.problems == ()


@pytest.mark.parametrize('mechanism', ['cached attention biases', 'response norm'])
def test_deployed_is_plain_small_and_separate(mechanism):
    original = build_config(SMALL[mechanism])
    batch = images(original)
    model = copy.deepcopy(original)
    deployed = measure(model, batch, Plan()).deployed
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
    assert size_of_file(deployed) < 0.7 * size_of_file(original)


def size_of_file(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return len(file.getvalue())


class OneFunction(nn.Module):
    """Attention of two heads by torch's function for it."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        query, key, value = self.qkv(x).reshape(2, 10, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(query, key, value).sum(1)


def test_attention_by_one_function_is_counted():
    products = 2 * 10 * 8 * 24 + 2 * (2 * 2 * 10 * 10 * 4)
    assert counted_run(OneFunction(), torch.randn(2, 10, 8))[1] == products


def test_a_missed_bar_is_told():
    good = check_network(build_config(SMALL['response norm']), 'resnet18', Plan())
    assert good.problems == ()
    for change, message in (
        (dict(slice_error=2e-10), 'sliced supernet is 2.0e-10 off'),
        (dict(mask_error=float('inf')), 'masked supernet is inf off'),
        (dict(independent_error=float('nan')), 'full network with zeros is nan off'),
        (dict(single_error=2e-5), 'float32 is 2.0e-05 off'),
        (dict(signal=1e-9), 'too little to prove anything'),
        (dict(scattered=0.5), 'only 50% of the groups'),
        (dict(params=(100, 41)), 'keeps 0.410 of the parameters, allowed 0.4'),
        (dict(pinned={'a': 'goes through sort'}), 'pins what no law of the network says: a (goes'),
    ):
        values = {**{key: getattr(good, key) for key in good.__dataclass_fields__}, **change}
        (problem,) = problems_of(ZooResult(**values), 0.5)
        assert message in problem


def test_a_law_explains_the_groups_that_it_names_and_no_others():
    tables = 'backbone.stages.0.blocks.1.attn.w_msa.relative_position_bias_table'
    assert law(tables) == 'offsets between places'
    assert law(f'{tables}#1') == 'heads that lose channels instead'
    assert law(f'{tables}.0') is None
    values = dict.fromkeys(ZooResult.__dataclass_fields__, 1.0)
    values |= dict(model='swin_transformer/tiny_224', params=(4, 1))
    pinned = {tables: 'picks channels by number', 'backbone.norm': 'is odd'}
    result = ZooResult(**{**values, 'pinned': pinned})
    assert result.unexplained() == {'backbone.norm': 'is odd'}
    assert pinned_text(result) == '1 offsets between places, 1 is odd'


def test_rounding_that_tips_choices_is_allowed_only_where_a_network_chooses():
    values = dict.fromkeys(ZooResult.__dataclass_fields__, 1.0) | dict(
        params=(4, 1), pinned={}, slice_error=0, mask_error=0, independent_error=0
    )
    for model, tipped, problems in (
        ('vig/vig_tiny', True, 0),
        ('vig/vig_tiny', False, 1),
        ('resnet18', True, 1),
    ):
        changed = dict(model=model, single_error=1e-3, choices_tipped=tipped)
        assert len(problems_of(ZooResult(**{**values, **changed}), 0.5)) == problems


def test_the_tool_prints_one_table_and_writes_a_file(tmp_path, capsys):
    files = tmp_path / 'zoo.json', tmp_path / 'zoo.md'
    (result,) = run_zoo(['resnet18'], Plan(ratio=0.25, seed=3), *files)
    printed = capsys.readouterr().out
    assert 'resnet18' in printed
    assert '1 of 1 networks pass' in printed
    written = json.loads((tmp_path / 'zoo.json').read_text())
    assert written['ratio'] == 0.25
    assert written['results'][0]['params'] == list(result.params)
    assert result.params[1] / result.params[0] < 0.1
    assert zoo_table([result], Plan()).row_count == 1
    titles, _, row = (tmp_path / 'zoo.md').read_text().splitlines()
    assert titles.count('|') == row.count('|')
    assert row.startswith('| resnet18 | 14 | 11,689,512 | ')


def test_a_network_that_cannot_be_pruned_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    result = check_network(build_config(SMALL['response norm']), 'resnet18', Plan())

    def check(name, plan):
        if name == 'resnet34':
            raise TypeError('no images')
        return result

    monkeypatch.setattr('mmprune.zoo.table.check_model', check)
    told = r'1 of 2 networks cannot be pruned:\nresnet34: TypeError: no images'
    with pytest.raises(InputError, match=told):
        run_zoo(['resnet34', 'resnet18'], Plan(), markdown_path=tmp_path / 'zoo.md')
    assert '1 of 1 networks pass' in capsys.readouterr().out
    titles, _, row = (tmp_path / 'zoo.md').read_text().splitlines()
    assert 'Torch-Pruning' not in titles
    assert titles.count('|') == row.count('|')


def test_the_table_tells_why_groups_are_pinned():
    reasons = ['output of the network', 'odd', 'odd', 'even', 'new', 'strange', 'rare']
    values = dict.fromkeys(ZooResult.__dataclass_fields__, 1.0)
    named = {f'group.{number}': reason for number, reason in enumerate(reasons)}
    result = ZooResult(**{**values, 'model': 'resnet18', 'pinned': named})
    assert pinned_text(result) == '2 odd, 1 output, 1 even, 1 new, 2 for other reasons'


@pytest.mark.parametrize(
    ('name', 'message'),
    [('resnet1', 'did you mean .*resnet18'), ('nothing-like-it', 'there are .*convnext-base')],
    ids=['similar', 'unlike'],
)
def test_an_unknown_network_is_refused_before_anything_runs(name, message, capsys):
    with pytest.raises(InputError, match=f"no model config '{name}' in .*; {message}"):
        run_zoo(['resnet18', name])
    assert capsys.readouterr().out == ''


def test_names_may_leave_out_the_folder():
    assert resolve('hrnet-w18') == 'hrnet/hrnet-w18'
    assert resolve('convnext/convnext-tiny') == 'convnext/convnext-tiny'
    assert all(resolve(name) == name for name in ZOO)
    assert len(ZOO) == 61
    above = {name for name, share in ZOO.items() if share > 0.45}
    assert above == {'repmlp-base_224'}, 'docs/zoo.md says why for this one only'


def test_a_network_that_takes_no_image_of_that_size_is_refused():
    with pytest.raises(InputError, match='ImageClassifier cannot be run on images of size 0'):
        images(build('resnet18'), size=0)
