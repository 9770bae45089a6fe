"""Checkpoints: what mmengine writes is read, what could run code or does not fit is refused."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import nn

from mmprune.checkpoint import (
    check_fit,
    load_weights,
    make_mmengine_load_safely,
    read_checkpoint,
    write_checkpoint,
)
from mmprune.errors import InputError


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class Reaching:
    """Looks up something that no checkpoint needs."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (HistoryBuffer, '__subclasses__')


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_what_mmengine_writes_is_read(tmp_path: Path, model: nn.Module) -> None:
    history = HistoryBuffer()
    history.update(1.5)
    history.update(np.float64(2.5))
    content = {
        'state_dict': model.state_dict(),
        'meta': {'epoch': 3, 'seed': np.int64(7), 'classes': ('a', 'b')},
        'message_hub': {'log_scalars': {'train/loss': history}},
        'array': np.arange(3, dtype=np.float32),
    }
    found = read_checkpoint(save(content, tmp_path / 'epoch_3.pth'))
    assert found['meta'] == content['meta']
    assert found['message_hub']['log_scalars']['train/loss'].mean() == 2.0
    assert found['array'].tolist() == [0, 1, 2]
    assert set(found['state_dict']) == set(model.state_dict())


@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.', 'module._orig_mod.'])
def test_a_bare_state_dict_is_read(tmp_path: Path, model: nn.Module, prefix: str) -> None:
    bare = {prefix + key: value for key, value in model.state_dict().items()}
    found = read_checkpoint(save(bare, tmp_path / 'bare.pth'))
    assert set(found) == {'state_dict'}
    assert set(found['state_dict']) == set(model.state_dict())


@pytest.mark.filterwarnings('ignore:.torch.load. received a zip file', 'ignore:.torch.jit')
def test_files_of_other_kinds_are_called_so(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), tmp_path / 'scripted.pt')
    (tmp_path / 'x.safetensors').write_bytes(bytes(100))
    with pytest.raises(InputError, match=r'TorchScript archives passed to ``torch\.load``\)'):
        read_checkpoint(tmp_path / 'scripted.pt')
    with pytest.raises(InputError, match=r'safetensors are not read\. Write a checkpoint of them'):
        read_checkpoint(tmp_path / 'x.safetensors')


def test_no_code_is_run(tmp_path: Path) -> None:
    trace = tmp_path / 'was_here'
    file = save({'state_dict': {}, 'x': Attack(f'touch {trace}')}, tmp_path / 'bad.pth')
    with pytest.raises(InputError, match=r'bad\.pth: holds more than weights.*\w+\.system'):
        read_checkpoint(file)
    assert not trace.exists()


def test_only_the_methods_of_a_history_are_looked_up(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'bad\.pth: cannot be read .*__subclasses__'):
        read_checkpoint(save({'state_dict': {}, 'x': Reaching()}, tmp_path / 'bad.pth'))


@pytest.mark.parametrize('kept', [0, 1, 100, 0.5, -1])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, model: nn.Module, kept: float) -> None:
    whole = save({'state_dict': model.state_dict()}, tmp_path / 'whole.pth').read_bytes()
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    size = cut.stat().st_size
    with pytest.raises(InputError, match=rf'cut\.pth: .*cut off: its {size} bytes'):
        read_checkpoint(cut)


def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(tmp_path: Path) -> None:
    file = save({'state_dict': {}}, tmp_path / 'bomb.pth')
    with ZipFile(file, 'a', ZIP_DEFLATED) as archive:
        archive.writestr('bomb/data/9', bytes(10**6))
    with pytest.raises(InputError, match=r'bomb\.pth: cannot be read \(holds more than its size'):
        read_checkpoint(file)


def test_a_file_without_checksums_is_read_with_a_warning(
    tmp_path: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr('mmprune.checkpoint.print_log', lambda text, *rest: told.append(text))
    file = tmp_path / 'old.pth'
    torch.save(model.state_dict(), file, _use_new_zipfile_serialization=False)
    assert set(read_checkpoint(file)['state_dict']) == set(model.state_dict())
    assert 'old.pth: is in the format of torch before 1.6, which has no checksums' in told[0]
    old = file.read_bytes()
    for place in range(0, 600, 7):
        file.write_bytes(old[:place] + bytes([old[place] ^ 4]) + old[place + 1 :])
        with suppress(InputError):
            read_checkpoint(file)


@pytest.mark.parametrize(
    ('names', 'said'),
    [((5,), 'named by text, and one of them by 5'), (('a', 'module.a'), 'both a and module.a')],
)
def test_weights_without_a_name_of_their_own_are_refused(
    names: tuple[object, ...], said: str, tmp_path: Path
) -> None:
    file = save({'state_dict': dict.fromkeys(names, torch.ones(1))}, tmp_path / 'x.pth')
    with pytest.raises(InputError, match=rf'x\.pth: .*{said}'):
        read_checkpoint(file)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = save({'state_dict': {}}, tmp_path / 'damaged.pth')
    # The archive stays complete; what it says makes no sense any more.
    file.write_bytes(file.read_bytes().replace(b'\x80\x02}', b'\x80\x02!'))
    with pytest.raises(InputError, match=r'damaged\.pth: cannot be read'):
        read_checkpoint(file)


def test_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / 'notes.txt'
    file.write_text('These are my notes.')
    with pytest.raises(InputError, match=r'notes\.txt: not a checkpoint'):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ('content', 'expected'),
    [([1, 2], 'a list'), ({'model': {}}, r"a dict with the keys \['model'\]"), ({}, 'a dict')],
)
def test_files_without_weights_are_refused(tmp_path: Path, content: object, expected: str) -> None:
    with pytest.raises(InputError, match=rf'x\.pth: holds no weights.*this is {expected}'):
        read_checkpoint(save(content, tmp_path / 'x.pth'))


def test_missing_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'nothing\.pth: the checkpoint does not exist'):
        read_checkpoint(tmp_path / 'nothing.pth')
    with pytest.raises(InputError, match='is a folder'):
        read_checkpoint(tmp_path)


def test_weights_are_loaded(tmp_path: Path, model: nn.Module) -> None:
    state = {key: torch.full_like(value, 3) for key, value in model.state_dict().items()}
    file = save({'state_dict': {**state, 'teacher.weight': torch.zeros(1)}}, tmp_path / 'x.pth')
    load_weights(model, file)
    assert all(bool((value == 3).all()) for value in model.state_dict().values())


def test_weights_that_do_not_fit_leave_the_model_alone(tmp_path: Path, model: nn.Module) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: torch.full_like(value, 3) for key, value in model.state_dict().items()}
    del state['1.running_mean']
    state['0.weight'] = torch.zeros(4, 1, 3, 3)
    state['head.weight'] = torch.zeros(1)
    file = save({'state_dict': state}, tmp_path / 'other.pth')
    with pytest.raises(InputError) as caught:
        load_weights(model, file)
    message = str(caught.value)
    assert 'other.pth: does not fit the model: 2 of its 7 tensors' in message
    assert '1 of 7 in the file have no place in it (such as head.weight)' in message
    assert '0.weight: shape (4, 1, 3, 3) in the file, (2, 1, 3, 3) in the model' in message
    assert '1.running_mean: missing in the file' in message
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_a_long_list_of_wrong_layers_is_cut(model: nn.Module) -> None:
    with pytest.raises(InputError, match=r'7 of its 7 tensors are missing(?s:.*)and 2 more'):
        check_fit(nn.Sequential(*model), {}, 'x.pth')


def test_mmengine_reads_safely_once_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    make_mmengine_load_safely()
    trace = tmp_path / 'was_here'
    file = save({'state_dict': {}, 'x': Attack(f'touch {trace}')}, tmp_path / 'bad.pth')
    with pytest.raises(InputError, match='holds more than weights'):
        CheckpointLoader.load_checkpoint(str(file))
    assert not trace.exists()


def test_checkpoints_by_url_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of mmengine's schemes leads there."""
    file, touched = tmp_path / 'weights.pth', tmp_path / 'touched'
    monkeypatch.setattr(
        'mmengine.runner.checkpoint.load_url',
        lambda url, **kwargs: torch.load(file, weights_only=False),
    )
    make_mmengine_load_safely()
    make_mmengine_load_safely()
    torch.save({'state_dict': {'w': torch.ones(1)}, 'more': Attack(f'touch {touched}')}, file)
    for url in ('https://example.com/weights.pth', 'mmcls://resnet50'):
        monkeypatch.setattr(
            'mmengine.runner.checkpoint.get_mmcls_models', lambda: {'resnet50': 'https://x'}
        )
        with pytest.raises(InputError, match=rf'{url}: holds more than weights .*system'):
            CheckpointLoader.load_checkpoint(url)
    assert not touched.exists()
    torch.save({'state_dict': {'w': torch.ones(1)}}, file)
    assert CheckpointLoader.load_checkpoint('https://example.com/weights.pth')['state_dict']
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ


def test_the_same_weights_make_the_same_file(tmp_path: Path) -> None:
    content = {'meta': {'a': 1}, 'state_dict': {'w': torch.rand(3), 'n': torch.arange(2)}}
    for folder in ('one', 'two'):
        write_checkpoint(content, tmp_path / folder / 'weights.pth')
    one, two = (tmp_path / folder / 'weights.pth' for folder in ('one', 'two'))
    assert one.read_bytes() == two.read_bytes()
    assert torch.equal(read_checkpoint(one)['state_dict']['w'], content['state_dict']['w'])
