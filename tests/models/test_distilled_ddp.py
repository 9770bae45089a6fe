"""Two processes train one student."""

from collections.abc import Callable
from pathlib import Path

import torch
from two_processes import in_two_processes

from mmprune.config import load_config
from mmprune.deploy.channel_cfg import save_channel_cfg
from mmprune.models import AutoSlim

WORKER = Path(__file__).with_name('distilled_worker.py')


def test_two_processes_have_one_student_and_the_same_teacher(
    build: Callable[..., AutoSlim], tmp_path: Path
) -> None:
    supernet = build()
    weights = supernet.architecture.state_dict()
    full = {key: value for key, value in weights.items() if not key.endswith('_mask')}
    torch.save(full, tmp_path / 'full.pth')
    supernet.pruner.set_min_channel()
    save_channel_cfg(supernet.pruner.export_subnet(), tmp_path / 'channel_cfg.yaml')
    cfg = load_config('autoslim_resnet-tiny_1xb32_digits.py')
    components = [
        dict(
            student_module=module,
            teacher_module=module,
            losses=[dict(type=loss, name=name)],
        )
        for module, loss, name in (
            ('head.fc', 'KLDivergence', 'kl'),
            ('backbone.layer2', 'L2Loss', 'l2'),
        )
    ]
    student = dict(
        type='mmprune.DeployedModel',
        model=dict(cfg.model.architecture, data_preprocessor=dict(cfg.data_preprocessor)),
        channel_cfg=str(tmp_path / 'channel_cfg.yaml'),
    )
    model = dict(
        type='mmprune.DistilledModel',
        architecture=student,
        teacher=dict(checkpoint=str(tmp_path / 'full.pth')),
        distiller=dict(type='SelfDistiller', components=components),
    )
    (tmp_path / 'config.py').write_text(f'model = {model!r}\n')

    in_two_processes(WORKER, str(tmp_path))
    first, second = (torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(first['weights'], second['weights'], rtol=0, atol=0)
    # Plain SGD: the average of two steps is a step along the average of two gradients.
    torch.testing.assert_close(first['weights'], first['averaged'])
    assert {'loss', 'kl_loss', 'l2_loss'} == {*first['logs']}
    for result in (first, second):
        torch.testing.assert_close(result['teacher'], full, rtol=0, atol=0)
        assert not any('teach' in name for name in result['names'])
