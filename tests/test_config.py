"""Configs are found by path and by name, and what is none is refused with its name."""

import errno
import re
import warnings
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

from mmprune import config as config_module
from mmprune.config import CONFIG_ROOTS, enter_scope, find_config, load_config
from mmprune.errors import InputError, exit_on_input_error
from mmprune.models.algorithm import build_model
from mmprune.renamed_configs import RENAMED

NAME = 'resnet-small_1xb64_digits.py'
SOURCE_CONFIGS = CONFIG_ROOTS[1]


@pytest.mark.parametrize('given', [NAME, f'digits/{NAME}', str(SOURCE_CONFIGS / 'digits' / NAME)])
def test_a_config_is_found_from_any_folder(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(given) == SOURCE_CONFIGS / 'digits' / NAME


def test_a_file_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(NAME).write_text('x = 1\n')
    assert load_config(NAME).x == 1


def test_an_installed_config_comes_before_a_source_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_module, 'CONFIG_ROOTS', (tmp_path, SOURCE_CONFIGS))
    (tmp_path / NAME).write_text('x = 1\n')
    assert find_config(NAME) == tmp_path / NAME


def test_a_missing_config_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(FileNotFoundError, match=f'resnet_smal_digits.py: no such.*{NAME}'):
        load_config('resnet_smal_digits.py')


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('tempfile.mkdtemp', full)
    with pytest.raises(InputError, match=f'{NAME}: cannot be read: .*No space left'):
        load_config(NAME)


@pytest.mark.parametrize(
    ('name', 'content', 'expected'),
    [
        ('notes.txt', 'my notes', 'not a config file: Only py/yml/yaml/json'),
        ('broken.py', 'x = = 2', 'not a config file: invalid syntax'),
        ('cut.py', 'model = dict(\n    type=', 'not a config file'),
        ('raises.py', 'a = 1\nb = null', r"line 2 of .*raises\.py: NameError: name 'null'"),
        ('broken.yaml', 'a: [1', 'not a config file'),
        ('broken.json', '{"a": ', 'not a config file'),
        ('five.py', 'model = 5', 'model: expected a mapping, found 5'),
        ('loader.yaml', 'train_dataloader: 5', 'train_dataloader: expected a mapping, found 5'),
        ('subnet.yaml', 'backbone.conv1: {}', "'backbone.conv1' cannot be the name of a setting"),
        ('orphan.py', "_base_ = './nothing.py'", 'a file it builds on is missing.*nothing.py'),
        ('stranger.py', "custom_imports = dict(imports=['no_such_module'])", 'no_such_module'),
    ],
)
def test_files_that_are_no_configs_are_refused(
    tmp_path: Path, name: str, content: str, expected: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(InputError, match=f'(?s){name}: .*{expected}'):
        load_config(file)


def test_options_are_set_in_a_copy() -> None:
    original = Config({'model': {'depth': 18}})
    changed = load_config(original, {'model.depth': 34, 'work_dir': 'out'})
    assert (changed.model.depth, changed.work_dir) == (34, 'out')
    assert original.model.depth == 18


def test_an_option_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=rf'{NAME}: --cfg-options .*depth'):
        load_config(NAME, {'model.backbone.depth.x': 3})


def test_every_config_is_found_by_its_name() -> None:
    """What `mim train mmprune NAME` needs."""
    files = [file for file in SOURCE_CONFIGS.rglob('*.py') if '_base_' not in file.parts]
    assert files
    assert len({file.name for file in files}) == len(files)


@pytest.mark.parametrize(
    'file',
    sorted(file for file in SOURCE_CONFIGS.rglob('*.py') if '_base_' not in file.parts),
    ids=lambda file: file.name,
)
def test_every_config_can_be_read(file: Path) -> None:
    package = file.parent.name
    if package in ('mmdet', 'mmseg', 'mmpose'):
        pytest.importorskip(package)  # tests/family builds these
    cfg = load_config(file)
    assert cfg.default_scope
    assert 'mmprune' in cfg.custom_imports['imports'][0]


def test_a_tool_ends_with_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, exit_on_input_error():
        load_config('nothing_at_all.py')
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith('error: nothing_at_all.py: no such config file')


def test_a_fault_of_mmprune_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), exit_on_input_error():
        {}['x']


@pytest.mark.parametrize(('old', 'new'), sorted(RENAMED.items()))
def test_names_of_before_are_found(old: str, new: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = find_config(f'configs/any/{old}')
    assert found == find_config(old) == find_config(new)
    assert found.name == new
    assert f'{old} is called {new} since 0.2' in capsys.readouterr().out


CONFIGS = [path for path in SOURCE_CONFIGS.rglob('*.py') if '_base_' not in path.parts]
# OpenMMLab's: algorithm, model, GPUs times batch size, dataset; a mere network has no last two.
CONVENTION = re.compile(
    r'([a-z-]+_)?[a-z0-9.-]+(_[a-z0-9.-]+)*_(\d+xb\d+(-\d+[ek])?|1x)'
    r'_(in1k|digits|mnist|shapes|coco|cityscapes|ade20k)(-\d+x\d+)?\.py'
)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.name)
def test_names_follow_the_convention(path: Path) -> None:
    assert CONVENTION.fullmatch(path.name) or path.name == 'yolov5s.py'


# -- scopes ----------------------------------------------------------------------------


def built(folder: Path, **settings: object) -> object:
    (folder / 'mine.py').touch()
    return build_model(Config(settings, filename=str(folder / 'mine.py')))


def test_names_are_those_of_the_default_scope(tmp_path: Path) -> None:
    model = dict(type='ResNet_CIFAR', depth=18, in_channels=1)
    assert type(built(tmp_path, model=model, default_scope='mmcls')).__module__.startswith('mmcls.')


def test_nothing_falls_back_to_a_model_zoo(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine\.py: 'ResNet_CIFAR' is not known.*no default_sco"):
        built(tmp_path, model=dict(type='ResNet_CIFAR', depth=18))
    assert built(tmp_path, model=dict(type='mmcls.ResNet_CIFAR', depth=18)) is not None
    assert built(tmp_path, model=dict(type='mmprune.KLDivergence')) is not None


def test_an_unknown_name_in_a_scope_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'ResNet_CIFRA' is not known: is it spelled right"):
        built(tmp_path, model=dict(type='ResNet_CIFRA'), default_scope='mmcls')


def test_a_config_of_mmrazor_is_told_what_to_write(tmp_path: Path) -> None:
    """It would be trained as the plain network that it names beside its algorithm."""
    path = tmp_path / 'razor.py'
    path.write_text("model = dict(type='X')\nalgorithm = dict(type='AutoSlim', architecture=model)")
    told = r"razor\.py: algorithm=dict\(type='AutoSlim', .*model=dict\(type='mmprune\.AutoSlim'"
    with pytest.raises(InputError, match=told):
        load_config(path)
    path.write_text("searcher = dict(type='GreedySearcher')")
    with pytest.raises(InputError, match=r'mmprune\.GreedySearchLoop'):
        load_config(path)
    with pytest.raises(
        InputError, match=r"mine\.py: dict\(type='MMClsArchitecture', .*network its"
    ):
        built(tmp_path, model=dict(type='MMClsArchitecture', model={}), default_scope='mmcls')


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (dict(type='ResNet_CIFAR', depth=18, dept=1), r"mine\.py: ResNet_CIFAR .*'dept'.* 'depth'"),
        (dict(type='ResNet_CIFAR'), r'mine\.py: ResNet_CIFAR needs depth; it takes depth, '),
        (
            dict(type='ImageClassifier', backbone=dict(type='ResNet_CIFAR', depth=18, typ=1)),
            r"mine\.py: ResNet_CIFAR has no option 'typ'; it takes",
        ),
        (
            dict(type='mmprune.AutoSlim', architecture=dict(type='ResNet_CIFAR'), prunner=1),
            r"mine\.py: AutoSlim has no option 'prunner'; did you mean 'pruner'\?",
        ),
    ],
)
def test_an_option_that_a_class_does_not_have_is_told(
    model: dict, message: str, tmp_path: Path
) -> None:
    """Of any class, at any depth of the config, and also where it hands options on to its base."""
    with pytest.raises(InputError, match=message):
        built(tmp_path, model=model, default_scope='mmcls')


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (
            dict(custom_hooks=[dict(type='mmprune.IterativePruning', end='x')]),
            "custom_hooks: 0: IterativePruning: end: expected a whole number, found 'x'",
        ),
        (
            dict(data=dict(dataset=dict(type='mmprune.Digits', max_refetch=1.5, pipeline=[]))),
            'data: dataset: Digits: max_refetch: expected a whole number, found 1.5',
        ),
        (
            dict(custom_hooks=[dict(type='mmprune.DMCP', slack=float('nan'))]),
            'custom_hooks: 0: DMCP: slack: expected a number, found nan',
        ),
    ],
)
def test_an_option_of_another_type_is_told_before_anything_is_built(
    part: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f'mine.py: {message}'):
        built(tmp_path, model=dict(type='ResNet_CIFAR', depth=18), default_scope='mmcls', **part)


@pytest.mark.parametrize(
    ('model', 'message'),
    [(None, 'has no model'), ({}, 'must contain the key "type"'), ({'type': 3}, 'must be a str')],
)
def test_a_model_without_a_type_is_told(model: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f'mine.py: .*{message}'):
        built(tmp_path, model=model, default_scope='mmcls')


def test_an_optimizer_that_there_is_not_is_told() -> None:
    wrapper = dict(optimizer=dict(type='SGDD', lr=0.1))
    told = r"the config: there is no optimizer 'SGDD'; did you mean 'SGD'"
    with pytest.raises(InputError, match=told), enter_scope(Config()):
        build_optim_wrapper(nn.Linear(1, 1), wrapper)


def test_another_type_error_is_not_taken_for_an_option() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = self.make()

        def make(self) -> nn.Module:
            return nn.ReLU(in_place=True)

    with pytest.raises(TypeError, match='in_place'), enter_scope(Config()):
        MODELS.build(dict(type=Failing))


def test_a_scope_that_is_not_installed_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine\.py: default_scope='mmabc': there is no such"):
        built(tmp_path, model=dict(type='ImageClassifier'), default_scope='mmabc')


def test_a_scope_that_lacks_a_package_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmpretrain, say, imports torchvision when its models are looked up."""
    (tmp_path / 'mmlacking').mkdir()
    (tmp_path / 'mmlacking' / '__init__.py').write_text('import torchvision_that_is_not_there\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"default_scope='mmlacking'.*torchvision_that_is_not"):
        built(tmp_path, model=dict(type='ImageClassifier'), default_scope='mmlacking')


def test_another_key_error_is_not_taken_for_a_name() -> None:
    with pytest.raises(KeyError, match='state_dict'), enter_scope(Config()):
        raise KeyError('state_dict')


def test_mmcv_without_operators_is_not_commented_on() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        with enter_scope(Config()):
            warnings.warn('Fail to import ``MultiScaleDeformableAttention`` from', stacklevel=1)
            warnings.warn('another', stacklevel=1)
    assert [str(warning.message) for warning in caught] == ['another']
