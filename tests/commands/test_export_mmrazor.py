"""Files of MMRazor by the tool that exports subnets: written, read again, refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmprune.commands.export_subnet import export_subnet
from mmprune.config import load_config
from mmprune.deploy.channel_cfg import load_channel_cfg, save_channel_cfg
from mmprune.errors import InputError
from mmprune.models.algorithm import build_algorithm

ROOT = Path(__file__).resolve().parents[2]
TINY = 'autoslim_resnet-tiny_1xb32_digits.py'


@pytest.mark.parametrize('version', ['0.x', '1.x'])
def test_a_file_for_mmrazor_leads_back_to_the_subnet(
    version: str, untrained: Path, tmp_path: Path
) -> None:
    theirs = export_subnet(TINY, untrained, 'min', tmp_path / 'theirs.yaml', mmrazor=version)
    content = yaml.safe_load(theirs.read_text(encoding='utf-8'))
    if version == '0.x':
        assert content['backbone.conv1'] == dict(
            in_channels=1, out_channels=4, raw_in_channels=1, raw_out_channels=8
        )
    else:
        assert content['channel_unit_cfg']['units']['backbone.conv1_(0, 8)_8']['choice'] == 4
    own = export_subnet(TINY, untrained, 'min', tmp_path / 'own.yaml')
    again = export_subnet(TINY, untrained, theirs, tmp_path / 'again.yaml')
    assert load_channel_cfg(again) == load_channel_cfg(own)


@pytest.mark.parametrize(
    ('version', 'message'),
    [
        ('0.x', r"layer 'backbone\.conv1': keeps other than the first 6 of 8 outputs, which a fi"),
        ('1.x', r"group 'backbone\.conv1': keeps other than the first 6 of 8 channels, which a un"),
        ('2.x', r"version must be one of 0\.x, 1\.x, not '2\.x'"),
    ],
)  # fmt: skip
def test_what_their_formats_cannot_say_is_refused(
    version: str, message: str, untrained: Path, tmp_path: Path
) -> None:
    pruner = build_algorithm(load_config(TINY), untrained).pruner
    pruner.plan('backbone.conv1', [0, 3]).execute()
    save_channel_cfg(pruner.export_subnet(), tmp_path / 'any.yaml')
    with pytest.raises(InputError, match=message):
        export_subnet(
            TINY, untrained, tmp_path / 'any.yaml', tmp_path / 'theirs.yaml', mmrazor=version
        )
    assert [path.name for path in tmp_path.iterdir()] == ['any.yaml']


def test_the_tool_knows_the_versions() -> None:
    tool = ROOT / 'tools' / 'export_subnet.py'
    refused = subprocess.run(
        [sys.executable, tool, 'x.py', 'x.pth', '--mmrazor', '3'],
        capture_output=True, text=True, check=False, env={'PYTHONPATH': str(ROOT)},
    )  # fmt: skip
    assert refused.returncode == 2
    assert "argument --mmrazor: invalid choice: '3'" in refused.stderr
