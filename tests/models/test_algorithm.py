import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmprune.errors import InputError
from mmprune.models import Recalibration
from mmprune.models.algorithm import build_algorithm, calibration_batches
from mmprune.randomness import seeded


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_what_is_drawn_depends_on_the_seed_alone_and_leaves_no_trace() -> None:
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    undisturbed = draws()
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    with seeded(5):
        first = draws()
    assert draws() == undisturbed
    with seeded(5):
        assert draws() == first
    with seeded(6):
        assert draws() != first


def test_calibration_batches_are_the_same_at_every_call(cfg: Config) -> None:
    # A random crop, so that the transforms draw too.
    crop = dict(type='RandomCrop', crop_size=8, padding=2)
    cfg.train_dataloader.dataset.pipeline.insert(0, crop)
    wanted = Recalibration(num_batches=3, batch_size=16, seed=1)
    first = calibration_batches(cfg, wanted)
    torch.manual_seed(99)
    np.random.seed(99)
    second = calibration_batches(cfg, wanted)
    other = calibration_batches(cfg, Recalibration(num_batches=3, batch_size=16, seed=2))

    assert [len(batch['inputs']) for batch in first] == [16, 16, 16]
    images, same, different = (
        torch.cat([b['inputs'] for b in bs]) for bs in (first, second, other)
    )
    assert torch.equal(images, same)
    assert not torch.equal(images, different)


def test_calibration_batches_end_with_the_dataset(cfg: Config) -> None:
    # The tiny config has 128 images and batches of 32.
    batches = calibration_batches(cfg, Recalibration(num_batches=5, batch_size=50))
    assert [len(batch['inputs']) for batch in batches] == [50, 50, 28]
    assert len(calibration_batches(cfg, Recalibration(num_batches=2))[0]['inputs']) == 32


def test_no_images_are_needed_where_none_are_wanted(cfg: Config) -> None:
    cfg.train_dataloader = None
    assert calibration_batches(cfg, Recalibration(num_batches=0)) == []
    with pytest.raises(InputError, match='has no train_dataloader'):
        calibration_batches(cfg, Recalibration())


def test_the_checkpoint_says_which_subnet_is_set(
    cfg: Config, untrained: Path, tmp_path: Path
) -> None:
    algorithm = build_algorithm(cfg, untrained)
    subnet = algorithm.pruner.sample_subnet()
    algorithm.pruner.set_subnet(subnet)
    torch.save({'state_dict': algorithm.state_dict()}, tmp_path / 'narrow.pth')
    loaded = build_algorithm(cfg, tmp_path / 'narrow.pth')
    torch.testing.assert_close(loaded.pruner.current_subnet(), subnet)
    assert not loaded.architecture.training


def test_a_model_that_is_retraining_is_no_supernet(cfg: Config, untrained: Path) -> None:
    layers = build_algorithm(cfg, untrained).pruner.export_subnet()
    cfg.model.update(retraining=True, channel_cfg=layers)
    with pytest.raises(InputError, match='has retraining=True'):
        build_algorithm(cfg, untrained)
