"""Compensation in the tools: an option of deploying, a field of pruning."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmprune.commands.deploy_subnet import deploy_subnet
from mmprune.commands.export_subnet import export_subnet, set_from_file
from mmprune.commands.metrics import predict_dataset
from mmprune.commands.prune import prune
from mmprune.commands.prune_options import PruneOptions
from mmprune.config import load_config
from mmprune.errors import InputError
from mmprune.models import Recalibration
from mmprune.models.algorithm import build_algorithm, calibration_batches, load_network
from mmprune.training.compensation import compensation_of

CONFIG = 'autoslim_resnet_small_digits_tiny.py'
IMAGES = dict(num_batches=2, batch_size=32, seed=1)


def config(**prune_cfg: Any) -> Any:
    """The tiny supernet's config with an ImportancePruner."""
    cfg = load_config(CONFIG)
    cfg.model.pruner = dict(
        type='ImportancePruner', budget=dict(macs=0.25), except_start_keys=['head.fc']
    )
    cfg.prune_cfg = prune_cfg
    return cfg


@pytest.fixture
def narrow(untrained: Path, tmp_path: Path) -> Path:
    """The channel config of the narrowest subnet."""
    return export_subnet(CONFIG, untrained, subnet='min', out=tmp_path / 'min.yaml')


def test_deploying_compensates_if_asked(trained: Path, narrow: Path, tmp_path: Path) -> None:
    cfg = load_config(CONFIG)
    cfg.prune_cfg = dict(compensation=dict(ridge=1e-3, images=IMAGES))
    files = deploy_subnet(cfg, trained, narrow, tmp_path / 'deployed', compensate=True)
    assert files.verified.ok
    # The same by hand: the norms of the supernet, and the same images without labels.
    algorithm = build_algorithm(load_config(CONFIG), trained)
    set_from_file(algorithm, narrow)
    pruner = algorithm.pruner
    by_hand = pruner.deploy_subnet(algorithm.architecture, pruner.export_subnet())
    batches = calibration_batches(cfg, Recalibration(**IMAGES))
    inputs = [algorithm.data_preprocessor(batch, False)['inputs'] for batch in batches]
    pruner.compensate(by_hand, inputs, dict(type='LeastSquares', ridge=1e-3))
    written = torch.load(files.checkpoint, weights_only=True)['state_dict']
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(written[name], tensor, rtol=1e-4, atol=1e-5)
    assert load_network(files.config, files.checkpoint)
    assert 'prune_cfg' not in files.config.read_text()


def test_a_compensated_network_is_closer_to_the_full_one(trained: Path, tmp_path: Path) -> None:
    cfg = config()
    full = predict_dataset(build_algorithm(cfg, trained), cfg.test_dataloader).scores
    distances = []
    for wanted in (True, False):
        options = PruneOptions(compensate=wanted)
        files = prune(cfg, trained, tmp_path / str(wanted), options=options)
        network = load_network(files.config, files.checkpoint)
        scores = predict_dataset(network, cfg.test_dataloader).scores
        distances.append(float((scores - full).square().mean()))
    assert distances[0] < distances[1] / 2  # norms recalibrated


@pytest.mark.parametrize(
    ('compensation', 'said'),
    [
        (dict(type='LeastSquares', rigde=1), "no option 'rigde'"),
        (True, "must be a method's name"),
        (dict(images=dict(num_batches=0)), 'num_batches must be 1 or more, not 0'),
        (dict(images=dict(count=3)), "images has no option 'count'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    untrained: Path, tmp_path: Path, compensation: Any, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        prune(config(compensation=compensation), untrained, tmp_path / 'pruned')
    assert not (tmp_path / 'pruned').exists()


def test_nothing_is_compensated_unless_it_is_wanted(untrained: Path) -> None:
    cfg = config()
    algorithm = build_algorithm(cfg, untrained)
    assert compensation_of(algorithm, cfg) is None
    assert compensation_of(algorithm, cfg, 'MeanFolding') is not None
