"""The doctor: what it says of networks with one thing wrong each, and what it writes."""

import json
from pathlib import Path
from xml.etree import ElementTree

import diagnosed_networks
import numpy as np
import pytest
import torch

from mmprune.commands.diagnose import diagnose, where_gradients_end
from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.models.algorithm import build_model
from mmprune.pruners import StructurePruner
from mmprune.randomness import seeded, stir

SHAPE = (1, 3, 10, 10)


@pytest.fixture
def config(tmp_path):
    """Write the config of a network of diagnosed_networks.py."""

    def write(name, more=''):
        path = tmp_path / f'{name.lower()}.py'
        path.write_text(
            "custom_imports = dict(imports=['diagnosed_networks'])\n"
            f"model = dict(type='{name}')\n{more}\n"
        )
        return path

    return write


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_healthy_network(config, out, capsys):
    found = diagnose(config('Healthy'), out_dir=out, input_shape=SHAPE, subnets=2)
    assert found.exit_status == 0
    assert (found.is_prunable, found.is_verified) == (True, True)
    assert found.verdict.startswith('PRUNABLE: 99.53% of the parameters and 100.00% of the MACs')
    assert [verified.name for verified in found.verified] == ['subnet 1', 'subnet 2']
    assert all(verified.report.tolerance == 1e-10 for verified in found.verified)
    assert files(out) == ['groups.svg', 'report.json', 'report.txt']
    text = (out / 'report.txt').read_text()
    assert text.startswith(f'diagnosis of {found.config}: Healthy\ninput: 1x3x10x10 of uniform')
    assert text.rstrip().endswith(found.verdict)
    assert 'members of every group' in text
    assert f'subnet 2, {found.verified[1].params:.1%} of the parameters: verified: ' in text
    written = json.loads((out / 'report.json').read_text())
    assert (written['exit_status'], written['problem']) == (0, None)
    assert {group['space_id'] for group in written['findings']['groups']} >= {'a', 'b', 'c'}
    assert len(written['verified']) == 2
    picture = ElementTree.parse(out / 'groups.svg').getroot()
    assert any(element.text == 'healthy: Healthy' for element in picture.iter())
    printed = capsys.readouterr().out
    assert found.verdict in printed
    assert 'members of every group' not in printed


def test_the_same_seed_gives_the_same_diagnosis_and_another_one_other_subnets(config, out):
    path = config('Healthy')
    first = diagnose(path, out_dir=out, input_shape=SHAPE, seed=1).as_dict()
    assert diagnose(path, out_dir=out, input_shape=SHAPE, seed=1).as_dict() == first
    other = diagnose(path, out_dir=out, input_shape=SHAPE, seed=2).as_dict()
    assert other['verified'] != first['verified']


def test_the_first_module_that_diverges_is_named(config, out):
    found = diagnose(config('Diverging'), out_dir=out, input_shape=SHAPE)
    assert found.exit_status == 1
    assert found.is_prunable
    assert {v.report.first_diverging_module for v in found.verified} == {'between_b_and_c'}
    assert found.verdict == (
        "NOT VERIFIED: subnets part from their deployed networks at 'between_b_and_c'"
    )
    assert "part at 'between_b_and_c'" in (out / 'report.txt').read_text()
    assert 'groups.svg' in files(out)


def test_a_subnet_that_cannot_be_deployed_is_a_finding_too(config, out, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError('no such cut')

    monkeypatch.setattr(StructurePruner, 'verify_subnet', fail)
    found = diagnose(config('Healthy'), out_dir=out, input_shape=SHAPE)
    assert found.exit_status == 1
    assert 'ValueError: no such cut' in (out / 'report.txt').read_text()
    assert json.loads((out / 'report.json').read_text())['verified'][0]['max_rel_err'] is None


def test_what_reads_its_size_is_pinned_with_that_reason_and_the_rest_verified(config, out):
    found = diagnose(config('Literal'), out_dir=out, input_shape=SHAPE)
    assert found.exit_status == 0
    reasons = {group.space_id: group.reason for group in found.findings.groups}
    assert reasons['a'] == ''
    assert reasons['b'] == 'a view in the root module counts 8 of them in its code'


def test_nothing_to_prune(config, out):
    found = diagnose(config('NothingToPrune'), out_dir=out, input_shape=SHAPE)
    assert found.exit_status == 1
    assert found.verdict == 'NOT PRUNABLE: every channel group is pinned, see the reasons'
    assert found.verified == ()
    assert files(out) == ['groups.svg', 'report.json', 'report.txt']


def test_a_network_that_does_not_run_names_the_module_and_the_way_out(config, out):
    found = diagnose(config('DoesNotFit'), out_dir=out, input_shape=SHAPE)
    assert found.exit_status == 1
    assert (found.problem.stage, found.problem.module) == ('run', 'b (Conv2d)')
    text = (out / 'report.txt').read_text()
    assert 'the network cannot be run on this input\nwhere: b (Conv2d)\nwhat: RuntimeError' in text
    assert 'give --input-shape' in text
    assert files(out) == ['report.json', 'report.txt']


def test_a_network_that_cannot_be_traced_names_the_module_where_the_graph_ends(config, out):
    found = diagnose(config('LeavesTorch'), out_dir=out, input_shape=SHAPE)
    assert found.exit_status == 1
    assert (found.problem.stage, found.problem.module) == (
        'trace',
        'the root module (LeavesTorch)',
    )
    assert found.verdict == 'NOT PRUNABLE: the network cannot be traced'
    assert 'does not depend on any of its parameters' in (out / 'report.txt').read_text()


def test_an_old_picture_does_not_stay_beside_a_report_that_has_none(config, out):
    diagnose(config('Healthy'), out_dir=out, input_shape=SHAPE, subnets=1)
    diagnose(config('LeavesTorch'), out_dir=out, input_shape=SHAPE)
    assert files(out) == ['report.json', 'report.txt']


def test_a_fault_of_mmprunes_own_is_reported_with_its_traceback(config, out, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('labels do not come to rest')

    monkeypatch.setattr('mmprune.supernet.supernet.propagate', fail)
    found = diagnose(config('Healthy'), out_dir=out, input_shape=SHAPE)
    assert (found.exit_status, found.problem.stage) == (1, 'mmprune')
    text = (out / 'report.txt').read_text()
    assert 'please report it' in text
    assert 'what: RuntimeError: labels do not come to rest' in text
    assert 'Traceback (most recent call last)' in text


def test_a_network_that_needs_float32_is_verified_in_it(config, out):
    found = diagnose(config('SinglePrecision'), out_dir=out, input_shape=SHAPE)
    assert 'float32' in found.input
    assert [v.report.tolerance for v in found.verified] == [1e-5] * 3
    assert found.exit_status == 0


def test_weights_as_built_are_stirred_where_they_would_hide_a_fault(config, out):
    """With a layer scale of 1e-6 and an untouched norm, a fault before it would not be seen."""
    with seeded(0):
        network = stir(torch.nn.Sequential(torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 4, 1)))
    norm, conv = network
    assert len(set(norm.weight.tolist())) == len(set(norm.running_var.tolist())) == 4
    assert (norm.running_mean != 0).all()
    assert (norm.bias != 0).all()
    assert norm.num_batches_tracked == 0
    assert conv.weight.std() > 0
    found = diagnose(config('Tame'), out_dir=out, input_shape=SHAPE)
    assert found.exit_status == 0
    assert 'drawn anew (seed 0)' in found.weights


def test_options_of_the_pruner_come_from_the_config(config, out):
    path = config('Healthy', "pruner = dict(except_start_keys=['b'])")
    found = diagnose(path, out_dir=out, input_shape=SHAPE)
    reasons = {group.space_id: group.reason for group in found.findings.groups}
    assert reasons['b'] == "excluded by except_start_keys 'b'"
    options = {'pruner.except_start_keys': ['a']}
    found = diagnose(path, out_dir=out, input_shape=SHAPE, cfg_options=options)
    reasons = {group.space_id: group.reason for group in found.findings.groups}
    assert (reasons['a'], reasons['b']) == ("excluded by except_start_keys 'a'", '')


def test_an_autoslim_config_brings_its_pruner_and_its_input_shape(out):
    options = {'model.pruner.except_start_keys': ['backbone.layer1.0.conv1']}
    name = 'autoslim_resnet-tiny_1xb32_digits.py'
    found = diagnose(name, out_dir=out, subnets=1, cfg_options=options)
    assert found.exit_status == 0
    assert found.model == 'ImageClassifier'
    assert found.input.startswith('1x1x8x8 of')
    reasons = {group.space_id: group.reason for group in found.findings.groups}
    excluded = "excluded by except_start_keys 'backbone.layer1.0.conv1'"
    assert reasons['backbone.layer1.0.conv1'] == excluded


def test_checkpoints_of_the_network_and_of_its_supernet(config, out, tmp_path):
    path = config('Healthy')
    state = diagnosed_networks.Healthy().state_dict()
    torch.save({'state_dict': state}, tmp_path / 'plain.pth')
    masks = {'architecture.a.out_mask': torch.ones(1, 8, 1, 1)}
    supernet = {**{f'architecture.{key}': value for key, value in state.items()}, **masks}
    torch.save({'state_dict': supernet}, tmp_path / 'supernet.pth')
    given = [
        diagnose(path, tmp_path / name, out, SHAPE, subnets=1).as_dict()
        for name in ('plain.pth', 'supernet.pth')
    ]
    assert given[0]['weights'] == str(tmp_path / 'plain.pth')
    assert given[0]['verified'] == given[1]['verified']
    torch.save({'state_dict': {'a.weight': state['a.weight']}}, tmp_path / 'part.pth')
    with pytest.raises(InputError, match=r'part.pth: does not fit the model'):
        diagnose(path, tmp_path / 'part.pth', out, SHAPE)


def test_a_checkpoint_of_an_autoslim(tmp_path, out):
    name = 'autoslim_resnet-tiny_1xb32_digits.py'
    supernet = build_model(load_config(name))
    supernet.pruner.set_min_channel()
    torch.save({'state_dict': supernet.state_dict()}, tmp_path / 'supernet.pth')
    found = diagnose(name, tmp_path / 'supernet.pth', out, subnets=1)
    assert found.exit_status == 0
    assert found.weights == str(tmp_path / 'supernet.pth')
    assert found.findings.full.params == supernet.pruner.supernet.cost_model.params(
        np.ones(supernet.pruner.supernet.size, bool)
    )


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('x = 1', 'there is nothing to diagnose: the config has no model'),
        ("model = dict(type='Unheard')", "'Unheard' is not known: the config has no default_scope"),
        (
            "default_scope = 'mmcls'\n"
            "model = dict(type='ImageClassifier', backbone=dict(type='VGG', depth=12))",
            'cannot be built',
        ),
    ],
)
def test_configs_that_cannot_be_used_are_refused_and_nothing_is_written(
    text, message, tmp_path, out
):
    path = tmp_path / 'config.py'
    path.write_text(text)
    with pytest.raises(InputError, match=f'config.py: .*{message}'):
        diagnose(path, out_dir=out)
    assert not out.exists()


def test_arguments_that_make_no_sense_are_refused(config, out):
    with pytest.raises(InputError, match='at least 1 subnet'):
        diagnose(config('Healthy'), out_dir=out, subnets=0)
    with pytest.raises(InputError, match=r'--input-shape=.* is no shape'):
        diagnose(config('Healthy'), out_dir=out, input_shape=(8,))
    assert not out.exists()


def test_the_default_folder_is_named_after_the_config(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    diagnose(config('Healthy'), input_shape=SHAPE, subnets=1)
    assert files(Path('work_dirs/healthy/diagnosis')) == ['groups.svg', 'report.json', 'report.txt']


# -- where gradients end ---------------------------------------------------------------


class Detaching(torch.nn.Module):
    def forward(self, x):
        return x.detach()


def test_gradients_end_where_a_module_detaches():
    inner = torch.nn.Sequential(torch.nn.Linear(3, 4), Detaching())
    model = torch.nn.Sequential(inner, torch.nn.ReLU())
    before = [p.requires_grad for p in model.parameters()]
    assert where_gradients_end(model, torch.rand(2, 3)) == '0.1'
    assert [p.requires_grad for p in model.parameters()] == before
    assert model.training
    assert where_gradients_end(torch.nn.Linear(3, 4), torch.rand(2, 3)) is None
    assert where_gradients_end(model, torch.rand(2, 5)) is None


def test_a_network_of_mmcls_at_a_size_that_it_does_not_take(tmp_path, out):
    config = tmp_path / 'mlp_mixer.py'
    name = 'mlp_mixer_base_patch16'
    config.write_text(f"_base_ = 'mmcls::_base_/models/{name}.py'\n")
    found = diagnose(config, out_dir=out, input_shape=(1, 3, 64, 64))
    assert (found.exit_status, found.problem.stage) == (1, 'run')
    assert found.problem.module
