"""Exporting and deploying: what is written, and what is refused."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmprune.checkpoint import read_checkpoint
from mmprune.commands.deploy_subnet import VerificationError, deploy_subnet
from mmprune.commands.export_subnet import export_subnet, set_from_file
from mmprune.commands.metrics import predict_dataset
from mmprune.commands.run import evaluate, train
from mmprune.config import load_config
from mmprune.deploy import VerifyReport
from mmprune.deploy.channel_cfg import load_channel_cfg
from mmprune.deploy.onnx_export import export_onnx
from mmprune.errors import InputError
from mmprune.models.algorithm import build_algorithm, calibration_batches, load_network
from mmprune.search import read_candidates

CONFIG = 'autoslim_resnet-tiny_1xb32_digits.py'


@pytest.fixture
def random_subnet(untrained: Path, tmp_path: Path) -> Path:
    """The channel config of a random subnet, which is neither the widest nor the narrowest."""
    algorithm = build_algorithm(load_config(CONFIG), untrained)
    algorithm.pruner.set_subnet(algorithm.pruner.sample_subnet())
    torch.save({'state_dict': algorithm.state_dict()}, tmp_path / 'set.pth')
    path = export_subnet(CONFIG, tmp_path / 'set.pth')
    assert path == tmp_path / 'subnet.yaml'
    assert load_channel_cfg(path) == algorithm.pruner.export_subnet()
    return path


@pytest.mark.parametrize(('subnet', 'ratio'), [('max', 1.0), ('min', 0.5)])
def test_the_widest_and_the_narrowest_are_exported_by_name(
    untrained: Path, tmp_path: Path, subnet: str, ratio: float, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = shutil.copy(untrained, tmp_path)
    path = export_subnet(CONFIG, checkpoint, subnet=subnet)
    assert path == tmp_path / f'subnet_{subnet}.yaml'
    entry = load_channel_cfg(path)['backbone.layer1.0.conv1']
    assert entry['out_channels'] == ratio * entry['raw_out_channels']
    assert 'MACs' in capsys.readouterr().out


def test_a_channel_config_is_exported_in_another_form(
    untrained: Path, random_subnet: Path, tmp_path: Path
) -> None:
    path = export_subnet(CONFIG, untrained, subnet=random_subnet, out=tmp_path / 'new' / 'a.json')
    assert path.read_text().startswith('{')
    assert load_channel_cfg(path) == load_channel_cfg(random_subnet)


def test_deployed_equals_supernet_to_the_last_image(
    trained: Path, random_subnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = deploy_subnet(CONFIG, trained, random_subnet, tmp_path / 'deployed')

    assert files.verified.ok
    assert 'file of weights, bytes' in capsys.readouterr().out
    cfg = load_config(CONFIG)
    network = load_network(files.config, files.checkpoint)
    algorithm = build_algorithm(cfg, trained)
    set_from_file(algorithm, random_subnet)
    algorithm.recalibrate(calibration_batches(cfg, algorithm.recalibration))
    inside = predict_dataset(algorithm, cfg.test_dataloader)
    outside = predict_dataset(network, cfg.test_dataloader)
    assert inside.num_different(outside) == 0
    torch.testing.assert_close(inside.scores, outside.scores, rtol=1e-4, atol=1e-5)
    # The statistics make a difference, or this would prove nothing.
    set_from_file(algorithm, random_subnet)
    supernets_own = build_algorithm(cfg, trained)
    set_from_file(supernets_own, random_subnet)
    without = predict_dataset(supernets_own, cfg.test_dataloader)
    assert not torch.allclose(inside.scores, without.scores, atol=1e-2)
    metrics = evaluate(files.config, files.checkpoint, tmp_path / 'test')
    assert metrics['accuracy/top1'] == pytest.approx(outside.accuracy, abs=1e-4)


def test_deployed_files_are_plain_and_can_be_moved(
    untrained: Path, random_subnet: Path, tmp_path: Path
) -> None:
    files = deploy_subnet(CONFIG, untrained, random_subnet, tmp_path / 'deployed')
    state = torch.load(files.checkpoint, weights_only=True)
    assert not any('mask' in name or 'architecture' in name for name in state['state_dict'])
    assert 'backbone.conv1.weight' in state['state_dict']
    text = files.config.read_text()
    assert 'search_cfg' not in text
    assert 'AutoSlim' not in text
    assert state['meta']['params'] < sum(
        v.numel() for v in torch.load(untrained, weights_only=True)['state_dict'].values()
    )
    assert files.checkpoint.stat().st_size < untrained.stat().st_size

    moved = tmp_path / 'elsewhere'
    (tmp_path / 'deployed').rename(moved)
    runner = train(
        moved / 'deployed.py',
        tmp_path / 'finetuned',
        cfg_options={'train_cfg.max_epochs': 1, 'optim_wrapper.optimizer.lr': 0.0},
    )
    # At a learning rate of 0, finetuning ends where it starts: at the deployed weights.
    weight = runner.model.state_dict()['head.fc.weight']
    assert torch.equal(weight, state['state_dict']['head.fc.weight'])


def test_onnx_computes_the_same(
    untrained: Path, random_subnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip('onnxruntime')
    files = deploy_subnet(CONFIG, untrained, random_subnet, tmp_path / 'deployed', onnx=True)
    assert files.onnx is not None
    images = torch.randn(5, 1, 8, 8)
    session = onnxruntime.InferenceSession(str(files.onnx), providers=['CPUExecutionProvider'])
    # What it expects and gives is in the file, and is said.
    told = session.get_modelmeta().custom_metadata_map
    assert told['input'] == (
        'float32, N x 1 x 8 x 8, normalised by you: (pixel - mean) / std with mean [77.8] and std '
        '[95.8], pixels from 0 to 255'
    )
    assert told['output'] == 'N x 10, raw scores: logits of a classifier, softmax not applied'
    printed = capsys.readouterr().out
    assert told['input'] in printed
    assert told['output'] in printed
    (logits,) = session.run(None, {'input': images.numpy()})
    with torch.no_grad():
        expected = load_network(files.config, files.checkpoint)(images)
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('batch', [1, 3])
def test_onnx_of_a_fixed_batch(
    untrained: Path, random_subnet: Path, tmp_path: Path, batch: int
) -> None:
    onnxruntime = pytest.importorskip('onnxruntime')
    files = deploy_subnet(CONFIG, untrained, random_subnet, tmp_path / 'out', onnx_batch=batch)
    assert files.onnx is not None
    session = onnxruntime.InferenceSession(str(files.onnx), providers=['CPUExecutionProvider'])
    assert session.get_inputs()[0].shape == [batch, 1, 8, 8]
    assert session.get_outputs()[0].shape == [batch, 10]
    images = torch.randn(batch, 1, 8, 8)
    (logits,) = session.run(None, {'input': images.numpy()})
    with torch.no_grad():
        expected = load_network(files.config, files.checkpoint)(images)
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)


def test_onnx_of_no_batch_is_refused(tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime')
    with pytest.raises(InputError, match='batches of 0 images'):
        export_onnx(torch.nn.ReLU(), torch.rand(1, 1, 8, 8), tmp_path / 'no.onnx', batch=0)


def test_onnx_that_cannot_be_written_is_said_before_the_work(
    untrained: Path, random_subnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmprune.deploy.onnx_export.PACKAGES', ('onnx', 'no_such_package'))
    with pytest.raises(InputError, match='Writing ONNX needs no_such_package'):
        deploy_subnet(CONFIG, untrained, random_subnet, tmp_path / 'out', onnx=True)
    assert not (tmp_path / 'out').exists()


def test_nothing_is_written_when_verification_fails(
    untrained: Path, random_subnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = VerifyReport(False, 0.3, 1e-5, 'backbone.layer1.0.conv1')
    monkeypatch.setattr('mmprune.pruners.RatioPruner.verify_subnet', lambda *_: report)
    with pytest.raises(VerificationError, match=r'nothing was written.*backbone.layer1.0.conv1'):
        deploy_subnet(CONFIG, untrained, random_subnet, tmp_path / 'deployed')
    assert not (tmp_path / 'deployed').exists()


def test_nothing_is_written_when_the_onnx_file_is_wrong(
    untrained: Path, random_subnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('onnxruntime')
    zeros = [torch.zeros(2, 10).numpy()]
    monkeypatch.setattr('mmprune.deploy.onnx_export._run', lambda *_: zeros)
    with pytest.raises(InputError, match='computes something else than torch'):
        deploy_subnet(CONFIG, untrained, random_subnet, tmp_path / 'deployed', onnx=True)
    assert not list((tmp_path / 'deployed').iterdir())


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_one(path: Path) -> None:
    path.write_text('a poem')


def of_another_network(path: Path) -> None:
    state = torch.load(path, weights_only=True)['state_dict']
    state['architecture.head.fc.weight'] = state['architecture.head.fc.weight'][:, :5]
    torch.save({'state_dict': state}, path)


@pytest.mark.parametrize('spoil', [cut_off, not_one, of_another_network, Path.unlink])
@pytest.mark.parametrize('tool', [deploy_subnet, export_subnet])
def test_broken_checkpoints_are_refused_by_name(
    untrained: Path, random_subnet: Path, tmp_path: Path, spoil: Any, tool: Any
) -> None:
    checkpoint = Path(shutil.copy(untrained, tmp_path / 'broken.pth'))
    spoil(checkpoint)
    before = sorted(tmp_path.iterdir())
    arguments = (random_subnet,) if tool is deploy_subnet else ('min',)
    with pytest.raises(InputError, match=r'broken.pth'):
        tool(CONFIG, checkpoint, *arguments)
    assert sorted(tmp_path.iterdir()) == before


def unknown_layer(text: str) -> str:
    return text.replace('backbone.conv1:', 'backbone.conv9:')


def half(text: str) -> str:
    return text[: len(text) // 2]


@pytest.mark.parametrize('spoil', [unknown_layer, half])
@pytest.mark.parametrize('tool', [deploy_subnet, export_subnet])
def test_broken_channel_configs_are_refused_by_name(
    untrained: Path, random_subnet: Path, tmp_path: Path, spoil: Any, tool: Any
) -> None:
    random_subnet.write_text(spoil(random_subnet.read_text()))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r'subnet.yaml'):
        tool(CONFIG, untrained, random_subnet, tmp_path / 'new')
    assert sorted(tmp_path.iterdir()) == before


def test_a_plain_config_has_no_subnets(cfg: Config, untrained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'resnet-small_1xb64_digits.py.*ImageClassifier'):
        export_subnet('resnet-small_1xb64_digits.py', untrained, 'min', tmp_path / 'subnet.yaml')
    assert not list(tmp_path.iterdir())


# -- files that belong together ------------------------------------------------------------


def test_names_with_quotes_and_line_breaks(
    untrained: Path, random_subnet: Path, tmp_path: Path
) -> None:
    """A line break ended the comment that names the subnet, and the rest was code."""
    odd = random_subnet.rename(tmp_path / 'a\nraise SystemExit("ran")\n\'""".yaml')
    folder = tmp_path / 'it\'s a "folder"\n'
    files = deploy_subnet(CONFIG, untrained, odd, folder)
    assert evaluate(files.config, files.checkpoint, tmp_path / 'test')
    again = deploy_subnet(CONFIG, untrained, odd, tmp_path / 'again')
    assert again.checkpoint.read_bytes() == files.checkpoint.read_bytes()
    assert {path.name for path in folder.iterdir()} == {
        *('deployed.pth', 'deployed.py', 'channel_cfg.yaml')
    }


@pytest.mark.parametrize('name', ['back\\slash', 'three"""quotes', '{{ fileBasename }}'])
def test_folders_that_a_config_cannot_name_are_refused_at_once(
    untrained: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError, match='name another'):
        deploy_subnet(CONFIG, untrained, 'not_read.yaml', tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_files_of_two_subnets_are_refused(
    untrained: Path, random_subnet: Path, tmp_path: Path
) -> None:
    one = deploy_subnet(CONFIG, untrained, random_subnet, tmp_path / 'one')
    widest = export_subnet(CONFIG, untrained, subnet='max', out=tmp_path / 'max.yaml')
    two = deploy_subnet(CONFIG, untrained, widest, tmp_path / 'two')
    for name in ('deployed.pth', 'channel_cfg.yaml'):
        mixed = Path(shutil.copytree(one.config.parent, tmp_path / f'mixed_{name}'))
        shutil.copy(two.config.with_name(name), mixed)
        for load in (
            lambda mixed=mixed: load_network(mixed / 'deployed.py', mixed / 'deployed.pth'),
            lambda mixed=mixed: evaluate(mixed / 'deployed.py', mixed / 'deployed.pth', tmp_path),
            lambda mixed=mixed: train(mixed / 'deployed.py', tmp_path / 'work'),
        ):
            with pytest.raises(InputError, match=rf'{name}: belongs to another deployment .*anew'):
                load()
    # Weights of the same channels are told apart too, as are those that another config is of.
    state = read_checkpoint(untrained)['state_dict']
    state['architecture.head.fc.bias'] += 1
    torch.save({'state_dict': state}, tmp_path / 'other.pth')
    other = deploy_subnet(CONFIG, tmp_path / 'other.pth', random_subnet, tmp_path / 'other')
    data = {'data_preprocessor.mean': [1.0]}
    later = deploy_subnet(CONFIG, untrained, random_subnet, tmp_path / 'later', cfg_options=data)
    for files in (other, later):
        assert files.channel_cfg.read_bytes() == one.channel_cfg.read_bytes()
        with pytest.raises(InputError, match=r'deployed\.pth: belongs to another deployment'):
            load_network(one.config, files.checkpoint)


def test_from_a_search_to_a_product(
    trained: Path,
    search: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one line; the network that is written is what the search has judged."""
    monkeypatch.setattr('mmprune.commands.picked_subnet.SECONDS', 0.05)
    search(trained, targets=[0.7], recalibration=dict(num_batches=1, batch_size=16))
    candidates = read_candidates(tmp_path / 'search')
    options = {'search_cfg.recalibration': dict(num_batches=1, batch_size=16)}
    files = deploy_subnet(
        CONFIG,
        trained,
        out_dir=tmp_path / 'product',
        onnx=True,
        study=tmp_path / 'search',
        pick='best-under:macs=0.7',
        cfg_options=options,
    )
    said = ' '.join(capsys.readouterr().out.split())
    number = int(re.search(r'candidates: number (\d+), accuracy/top1', said)[1])
    assert files.onnx is not None
    assert files.onnx.is_file()
    assert re.search(r'onnxruntime: computes what torch does, relative error \d\.\de-', said)
    assert re.search(r'network . torch . onnxruntime .* full network . \d+\.\d+ . \d+\.\d+', said)
    picked = next(each for each in candidates if each.index == number)
    cfg = load_config(CONFIG)
    network = load_network(files.config, files.checkpoint)
    measured = predict_dataset(network, cfg.val_dataloader).accuracy
    assert measured == pytest.approx(picked.metric, abs=1e-4)
    kept = load_channel_cfg(files.channel_cfg)
    assert kept['backbone.conv1']['out_channels'] == picked.channels['backbone.conv1']
    assert f'candidate {number} of search' in files.config.read_text()


def test_a_candidate_of_another_network_is_refused(
    trained: Path, search: Any, tmp_path: Path
) -> None:
    search(trained, targets=[0.9])
    study = tmp_path / 'search'
    options = {'model.pruner.importance': dict(type='RandomImportance', seed=1)}
    with pytest.raises(InputError, match='search: candidate 1 is no subnet of this network'):
        deploy_subnet(CONFIG, trained, study=study, pick='1', cfg_options=options)
    content = read_checkpoint(trained)
    next(iter(content['state_dict'].values())).add_(1)
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(
        InputError, match=r'study.journal: its candidates .* the checkpoint that was'
    ):
        deploy_subnet(CONFIG, tmp_path / 'other.pth', study=study, pick='1')
    for given in ({}, {'study': study, 'channel_cfg': 'subnet.yaml'}):
        with pytest.raises(InputError, match='the channel config of a subnet, or the study'):
            deploy_subnet(CONFIG, trained, **given)
    assert not list(trained.parent.glob('deployed_*'))
