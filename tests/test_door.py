"""One call: any network becomes a smaller plain one that computes the same, and one file."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from randomised import randomise
from torch import nn
from torch.nn import functional as F

import mmprune
from mmprune.errors import InputError, MissingFileError


class Net(nn.Module):
    """A residual block, a concatenation, attention and a linear layer."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.block = nn.Sequential(
            nn.Conv2d(width, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.ReLU(),
            nn.Conv2d(24, width, 3, padding=1), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.side = nn.Conv2d(width, 8, 1)
        self.mix = nn.Conv2d(width + 8, 32, 1)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.block(x))
        x = self.mix(torch.cat([x, self.side(x)], 1)).flatten(2).mT
        x = x + self.attention(x, x, x)[0]
        return self.fc(x.mean(1))


DEMO = torch.rand(2, 3, 8, 8, dtype=torch.float64)


def network(seed: int = 0, width: int = 16) -> nn.Module:
    """In float64, every number random, norm statistics among them."""
    torch.manual_seed(seed)
    return randomise(Net(width).double(), seed).eval()


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


@pytest.mark.parametrize(
    'options',
    [
        dict(macs=0.5),
        dict(params=0.4),
        dict(macs=0.6, params=0.5, round_to=4),
        dict(ratio=0.5, importance=dict(type='RandomImportance')),
        dict(ratio={'block.*': 0.25, '*': 0.75}),
    ],
)
def test_what_is_left_computes_the_same(options: dict) -> None:
    """As the full network with masks for the channels that are gone, on an input not seen."""
    net = network()
    result = mmprune.prune(net, DEMO, **options)
    for name in ('macs', 'params'):
        assert result.after[name] <= result.before[name] * options.get(name, 1)
    assert result.after['params'] == sum(p.numel() for p in result.network.parameters())
    assert result.verified.ok
    kept = {
        g.space_id: k for g, k in zip(result.findings.groups, result.findings.kept, strict=True)
    }
    assert sum(kept.values()) < sum(g.num_channels for g in result.findings.groups)
    entries = [e for e in result.channel_cfg.values() if 'out_index' in e]
    assert any(e['out_index'] != list(range(e['out_channels'])) for e in entries)
    # The supernet is another computation: the subnet is set and masked, not cut.
    other = mmprune.make_supernet(net, DEMO, execution='mask')
    other.switch_subnet(result.channel_cfg)
    data = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(result.network(data), net(data), rtol=0, atol=1e-12)


def test_the_network_stays_as_it_was() -> None:
    net = network()
    before, outputs = state(net), net(DEMO)
    result = mmprune.prune(net, DEMO, macs=0.5)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert torch.equal(net(DEMO), outputs)
    assert not [m for m in net.modules() if 'forward' in vars(m)]
    shared = {p.data_ptr() for p in net.parameters()}
    assert not shared & {p.data_ptr() for p in result.network.parameters()}
    with pytest.raises(InputError):
        mmprune.prune(net, DEMO, macs=2)
    assert not [m for m in net.modules() if 'forward' in vars(m)]


def test_it_prints_what_was_cut_and_what_was_not_and_why() -> None:
    text = str(mmprune.prune(network(), DEMO, macs=0.5, keep=['block.0', 'side']))
    assert re.match(r'Net\n  MACs: [\d,]+ -> [\d,]+ \((4[89]|50)\.\d%\)\n  parameters: ', text)
    assert re.search(r'^  stem +\d+ of 16$', text, re.MULTILINE)
    assert "block.0: excluded by keep 'block.0'" in text
    assert re.search(r'^  .*fc.*: output of the network$', text, re.MULTILINE)
    assert text.splitlines()[-1].startswith('verified: ')
    assert 'except_start_keys' not in text


def test_layers_that_are_to_stay_do() -> None:
    whole = mmprune.prune(network(), DEMO, ratio=0.5, keep='block', scope='local').network
    assert whole.block[0].weight.shape == (24, 16, 3, 3)  # its sum holds the stem, too
    one = mmprune.prune(network(), DEMO, ratio=0.5, keep='block.0', scope='local').network
    assert one.block[0].weight.shape == (24, 8, 3, 3)


def test_latency_is_a_limit_too() -> None:
    def latency_of(pruner: object, subnet: dict[str, torch.Tensor]) -> float:
        return 1.0 + float(sum(int(mask.sum()) for mask in subnet.values()))

    result = mmprune.prune(network(), DEMO, latency=0.7, latency_of=latency_of)
    assert result.after['latency'] <= 0.7 * result.before['latency']
    assert 'latency: ' in str(result)


# -- data ------------------------------------------------------------------------------

LABELS = torch.tensor([3, 7])


@pytest.mark.parametrize(
    ('importance', 'batch'),
    [
        ('TaylorImportance', (DEMO, LABELS)),
        ('ActivationImportance', DEMO),
        ('ActivationImportance', (DEMO, LABELS)),
        ('TaylorImportance', dict(x=DEMO, kind=SimpleNamespace)),
        ('TaylorImportance', dict(x=DEMO, kind=dict)),
    ],
)
def test_an_importance_sees_batches(importance: str, batch: object) -> None:
    class WithLoss(Net):
        def forward(self, x: torch.Tensor, kind: type) -> object:
            return kind(loss=super().forward(x).square().sum())

    net, demo = network(), DEMO
    if isinstance(batch, dict):
        net.__class__ = WithLoss
        demo = lambda model: Net.forward(model, DEMO)  # noqa: E731
    result = mmprune.prune(net, demo, ratio=0.5, importance=dict(type=importance), data=[batch])
    assert result.verified.ok


def test_a_loss_may_be_given() -> None:
    seen = []

    def loss_fn(net: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch)
        return net(batch).square().mean()

    options = dict(importance=dict(type='TaylorImportance'), loss_fn=loss_fn)
    mmprune.prune(network(), DEMO, ratio=0.5, data=[DEMO, DEMO], compensation=None, **options)
    assert len(seen) == 2


def test_a_loss_says_how_to_run_a_batch_of_any_form() -> None:
    """For what makes up for the cut too, which needs no loss."""
    options = dict(ratio=0.5, data=[dict(image=DEMO, label=LABELS)])
    with pytest.raises(InputError, match='loss_fn=lambda'):
        mmprune.prune(network(), DEMO, **options)
    loss_fn = lambda net, batch: F.cross_entropy(net(batch['image']), batch['label'])  # noqa: E731
    given = mmprune.prune(network(), DEMO, loss_fn=loss_fn, **options)
    alone = mmprune.prune(network(), DEMO, **options | dict(data=[DEMO]))
    assert given.compensation.treated
    torch.testing.assert_close(given.network(DEMO), alone.network(DEMO))


def test_data_that_does_not_fit_is_refused() -> None:
    taylor = dict(ratio=0.5, importance=dict(type='TaylorImportance'))
    with pytest.raises(InputError, match='TaylorImportance looks at data: give data=<batches>'):
        mmprune.prune(network(), DEMO, **taylor)
    with pytest.raises(InputError, match='data: there are no batches'):
        mmprune.prune(network(), DEMO, ratio=0.5, data=[])
    with pytest.raises(
        InputError,
        match=r'give loss_fn=.*batches have torch\.float64, and the network returns a Tensor',
    ):
        mmprune.prune(network(), DEMO, **taylor, data=[(DEMO, LABELS.double())])
    with pytest.raises(InputError, match=r'give loss_fn=.*batches have torch\.int64, torch\.int64'):
        mmprune.prune(network(), DEMO, **taylor, data=[(DEMO, LABELS, LABELS)])
    with pytest.raises(InputError, match=r'must return a scalar .* shape \(2, 10\) with a grad'):
        mmprune.prune(network(), DEMO, **taylor, data=[DEMO])


def test_data_make_up_for_what_was_removed() -> None:
    net = network()
    images = [torch.rand(8, *DEMO.shape[1:], dtype=DEMO.dtype) for _ in range(4)]
    cut = mmprune.prune(net, DEMO, ratio=0.5, data=images, compensation=None)
    made_up = mmprune.prune(net, DEMO, ratio=0.5, data=(image for image in images))
    assert cut.compensation is None
    assert made_up.compensation is not None
    assert made_up.compensation.treated
    assert 'LeastSquares' in str(made_up)
    assert 'LeastSquares' not in str(cut)
    with torch.no_grad():
        expected = net(images[0])
        errors = [(own.network(images[0]) - expected).square().sum() for own in (made_up, cut)]
    assert errors[0] < 0.5 * errors[1]


# -- wrong arguments -------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(), 'how small.*ratio=.*macs='),
        (dict(ratio=0.5, macs=0.5), 'how small'),
        (dict(macs=0), '^macs=0: up to 1'),
        (dict(macs=-1), '^macs=-1: up to 1'),
        (dict(macs=1.5), r'^macs=1\.5: .*above 1 it is a number of MACs'),
        (dict(params='half'), "^params='half': "),
        (dict(macs=True), '^macs=True: '),
        (dict(macs=2), r'cannot be met.*costs [\d,]+ of at most 2 MACs'),
        (dict(latency=0.5), 'latency_of=<file'),
        (dict(latency='table.json'), 'a table or a function is given as latency_of='),
        (dict(ratio=1.5), r'found 1\.5'),
        (dict(ratio=0.5, keep=['blok']), r"^keep: 'blok' .*'block'"),
        (dict(ratio=0.5, keep='block.7'), r"^keep: 'block\.7'"),
        (dict(ratio=0.5, keep=[nn.ReLU()]), 'keep, names of layers: expected a text, found ReLU'),
        (dict(macs=50), r'at most 50 MACs.*half of the MACs is macs=0\.5, not 50'),
        (dict(ratio=0.5, max_removed='x'), 'max_removed: expected a number, found .x.'),
        (dict(ratio=0.5, importance={}), 'expected a config with a type'),
        (dict(latency=0.5, latency_of=3), r'latency\(pruner, subnet\) failed: TypeError'),
        (dict(latency=0.5, latency_of=lambda *_: None), r'latency\(pruner, subnet\) failed'),
        (dict(ratio=0.5, data=[DEMO], compensation=3), 'expected a config with a type.*found 3'),
        (
            dict(
                ratio=0.5,
                data=[DEMO, 'x'],
                importance='Taylor',
                loss_fn=lambda net, x: net(x).sum(),
            ),
            'loss_fn.model, batch. failed for batch 1: TypeError',
        ),
        (dict(flops=0.5), "no option 'flops'.* two FLOPs: .*; it takes ratio, macs, params"),
        (dict(ratio=0.5, except_start_keys=['stem']), "no option 'except_start_keys'; .*keep"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    net = network()
    with pytest.raises(InputError, match=message):
        mmprune.prune(net, DEMO, **options)
    assert not [m for m in net.modules() if 'forward' in vars(m)]


@pytest.mark.parametrize(
    ('given', 'demo', 'message'),
    [
        (
            lambda net: torch.jit.script(nn.Conv2d(3, 4, 1)),
            DEMO,
            'a program of torch.jit.*give the module',
        ),
        (
            lambda net: nn.Sequential(net, torch.jit.script(nn.Linear(4, 4))),
            DEMO,
            '^1: a program of torch.jit.*give the module',
        ),
        (lambda net: torch.export.export(net, (DEMO,)).module(), DEMO, 'give the module that'),
        (lambda net: net, DEMO.numpy(), 'demo_input: expected a tensor.*found ndarray'),
    ],
)
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_programs_and_arrays_are_refused(given, demo, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mmprune.prune(given(network()), demo, ratio=0.5)


def test_a_shape_is_no_input() -> None:
    with pytest.raises(InputError, match='shape'):
        mmprune.prune(network(), (1, 3, 32, 32), ratio=0.5)


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match='max_removed'):
        mmprune.prune(network(), DEMO, ratio=0.5, max_removd=0.5)


def test_a_result_that_computes_something_else_is_not_returned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mmprune.deploy import VerifyReport
    from mmprune.pruners import StructurePruner

    wrong = VerifyReport(False, 0.5, 1e-10, 'stem', 'Outputs differ.')
    monkeypatch.setattr(StructurePruner, 'verify_subnet', lambda *args, **kwargs: wrong)
    with pytest.raises(InputError, match=r"would not compute the same.*part at 'stem'"):
        mmprune.prune(network(), DEMO, ratio=0.5)


# -- one file --------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> tuple[mmprune.Pruned, Path]:
    result = mmprune.prune(network(), DEMO, macs=0.5)
    mmprune.save(result, tmp_path / 'small.pt')
    return result, tmp_path / 'small.pt'


def test_a_file_and_the_original_make_the_small_network(
    saved: tuple[mmprune.Pruned, Path],
) -> None:
    result, file = saved
    original = network(seed=1)
    before = state(original)
    loaded = mmprune.load(file, original)
    assert torch.equal(loaded(DEMO), result.network(DEMO))
    assert not torch.equal(loaded(DEMO), original(DEMO))
    assert all(torch.equal(before[key], value) for key, value in original.state_dict().items())
    content = torch.load(file, weights_only=True)
    assert set(content['mmprune']['versions']) >= {'mmprune', 'torch', 'python', 'mmengine'}
    assert [path.name for path in file.parent.iterdir()] == ['small.pt']


@pytest.mark.parametrize(
    'wrap',
    [
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        lambda net: torch.compile(net, backend='eager'),
    ],
)
def test_wrappers_are_looked_through(wrap, saved: tuple[mmprune.Pruned, Path]) -> None:
    """Of the network that is pruned, of the one that is saved, and of the original."""
    result, path = saved
    assert mmprune.prune(wrap(network()), DEMO, macs=0.5).channel_cfg == result.channel_cfg
    mmprune.save(dataclasses.replace(result, network=wrap(result.network)), path)
    for original in (network(1), wrap(network(1))):
        again = mmprune.load(path, original).eval()
        assert torch.equal(again(DEMO), result.network.eval()(DEMO))


def test_weights_that_were_trained_since_are_saved(
    saved: tuple[mmprune.Pruned, Path],
) -> None:
    result, file = saved
    with torch.no_grad():
        result.network.fc.bias += 1
    mmprune.save(result, file)
    assert torch.equal(mmprune.load(file, network(seed=2))(DEMO), result.network(DEMO))


def test_another_network_is_refused_with_both_numbers(
    saved: tuple[mmprune.Pruned, Path],
) -> None:
    with pytest.raises(InputError, match=r'(?s)small\.pt.*16.*20.*pruned Net.*was given a Net'):
        mmprune.load(saved[1], network(width=20))
    with pytest.raises(InputError, match=r"(?s)layer 'stem': .*given a Linear"):
        mmprune.load(saved[1], nn.Linear(3, 3))
    with pytest.raises(InputError, match=r'small\.pt'):
        mmprune.load(saved[1], saved[0].network)


def test_files_that_are_none_are_refused(
    saved: tuple[mmprune.Pruned, Path], tmp_path: Path
) -> None:
    content = saved[1].read_bytes()
    broken = tmp_path / 'broken.pt'
    broken.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r'broken\.pt: not a checkpoint, or cut off'):
        mmprune.load(broken, network())
    with pytest.raises(MissingFileError, match=r'nothing\.pt'):
        mmprune.load(tmp_path / 'nothing.pt', network())
    torch.save(network().state_dict(), broken)
    with pytest.raises(InputError, match=r'broken\.pt: holds weights, but not which channels'):
        mmprune.load(broken, network())
    later = torch.load(saved[1], weights_only=True)
    later['mmprune']['version'] = 9
    torch.save(later, broken)
    with pytest.raises(InputError, match=r'is of version 9.*reads version 1'):
        mmprune.load(broken, network())
    later['mmprune'].update(version=1, channel_cfg={'stem': {'out_channels': -1}})
    torch.save(later, broken)
    with pytest.raises(InputError, match=r"broken\.pt: layer 'stem'"):
        mmprune.load(broken, network())


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({'state_dict': {}, 'mmprune': Path('x')}, tmp_path / 'code.pt')
    with pytest.raises(InputError, match='runs no code'):
        mmprune.load(tmp_path / 'code.pt', network())


def test_only_results_are_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='not a Net'):
        mmprune.save(network(), tmp_path / 'x.pt')
    assert not list(tmp_path.iterdir())


# -- the switchable form ---------------------------------------------------------------


def test_a_supernet_is_switched() -> None:
    net = network()
    pruner = mmprune.make_supernet(net, DEMO, ratios=[0.5, 1.0], keep='side')
    full = net(DEMO)
    pruner.set_min_channel()
    assert pruner.cost()['macs'] < 0.6 * pruner.cost(pruner.subnet_of_ratio(1.0))['macs']
    small = pruner.deploy_subnet(net, pruner.export_subnet())
    assert small.side.out_channels == 8
    torch.testing.assert_close(small(DEMO), net(DEMO), rtol=0, atol=1e-12)
    pruner.set_max_channel()
    assert torch.equal(net(DEMO), full)
    np.random.seed(0)
    assert pruner.verify_subnet(subnet=pruner.sample_subnet()).ok


def test_only_what_is_public_is_there() -> None:
    for name in mmprune.__all__:
        assert getattr(mmprune, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = mmprune.prun
