"""Kills tools at random moments, runs them again, and says what was lost: `make chaos`.

Every tool runs once undisturbed. Then it is killed by SIGKILL at a moment drawn between its start
and its end, in a folder of its own, and the same command is run again. What a kill has left must
be whole, and what the second run ends with must be what the undisturbed one gave.

A run is a fork of this process, so that its time is work and not imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SUPERNET = 'autoslim_resnet-tiny_1xb32_digits.py'
PLAIN = 'resnet-small_1xb64_digits.py'
TINY = (
    *('model.backbone.stem_channels=8', 'model.backbone.base_channels=8'),
    *('model.head.in_channels=32', 'train_dataloader.dataset.indices=64'),
    *('val_dataloader.dataset.indices=60', 'test_dataloader.dataset.indices=60'),
)
SHAPE = ('--input-shape', '1', '1', '8', '8')


@dataclass(frozen=True)
class Job:
    """A command: ``{folder}`` is its own folder, ``{files}`` that of what all of them read.

    Attributes:
        same: Which of its files are the same to the bit, or to the last weight, in every run.
    """

    tool: str
    arguments: tuple[str, ...]
    same: tuple[str, ...]


OWN = ('--cfg-options', *TINY, 'log_level=ERROR')
# Widths and crops drawn at random, and one checkpoint that is replaced after every epoch.
TRAINING = """_base_ = ['{base}']
pipeline = [dict(type='RandomCrop', crop_size=8, padding=1), dict(type='PackClsInputs')]
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=pipeline))
model = dict(num_sample_training=4)
train_cfg = dict(max_epochs=3)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))
log_level = 'ERROR'
"""
JOBS = {
    'train': Job(
        'train',
        ('{files}/training.py', '--work-dir', '{folder}', '--resume'),
        ('epoch_3.pth',),
    ),
    'search': Job(
        'search_subnet',
        (
            *(SUPERNET, '{files}/supernet.pth', '--work-dir', '{folder}', '--resume'),
            *('--cfg-options', 'log_level=ERROR', 'search_cfg.targets=[0.8]'),
        ),
        ('subnet_0.8.yaml', 'search_results.json'),
    ),
    'export': Job(
        'export_subnet',
        (SUPERNET, '{files}/supernet.pth', '--subnet', 'min', '--out', '{folder}/subnet.yaml'),
        ('subnet.yaml',),
    ),
    'deploy': Job(
        'deploy_subnet',
        (
            *(SUPERNET, '{files}/supernet.pth', '{files}/subnet.yaml'),
            *('--out-dir', '{folder}/deployed'),
        ),
        ('deployed/*.pth', 'deployed/*.yaml'),
    ),
    'prune': Job(
        'prune',
        (
            *(PLAIN, '{files}/plain.pth', '--budget', 'macs=0.5', '--out-dir', '{folder}/pruned'),
            *(*SHAPE, *OWN),
        ),
        ('pruned/*.pth', 'pruned/*.yaml'),
    ),
    'latency': Job(
        'latency',
        (
            *(SUPERNET, '--table', '{folder}/latency.json', '--json', '{folder}/numbers.json'),
            *('--subnets', '2', '--widths', '2', '--threads', '1'),
        ),
        (),
    ),
    'sensitivity': Job(
        'sensitivity',
        (
            *(PLAIN, '{files}/plain.pth', '--shares', '0.5', '--after', 'cut', *SHAPE),
            *('--out-dir', '{folder}/sensitivity', *OWN),
        ),
        ('sensitivity/*.csv', 'sensitivity/*.json'),
    ),
}


@dataclass
class Losses:
    """What the kills of one tool have done."""

    kills: int = 0
    broken: list[str] = field(default_factory=list)
    not_run_again: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    @property
    def is_nothing(self) -> bool:
        """Whether nothing was lost."""
        return not (self.broken or self.not_run_again or self.different or self.left_over)


def prepare(files: Path) -> None:
    """Write what the tools read: checkpoints of random weights, and a channel config."""
    import torch
    from mmengine.registry import init_default_scope

    from mmprune.config import load_config
    from mmprune.deploy.channel_cfg import save_channel_cfg
    from mmprune.randomness import stir
    from mmprune.registry import MODELS

    base = ROOT / 'configs' / 'autoslim' / SUPERNET
    (files / 'training.py').write_text(TRAINING.format(base=base))
    torch.manual_seed(0)
    options = dict(pair.split('=', 1) for pair in TINY)
    for name, config in (('supernet', SUPERNET), ('plain', PLAIN)):
        given = {key: int(value) for key, value in options.items()} if name == 'plain' else {}
        cfg = load_config(config, given)
        init_default_scope('mmcls')
        model = stir(MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)))
        torch.save({'state_dict': model.state_dict()}, files / f'{name}.pth')
        if name == 'supernet':
            model.pruner.set_min_channel()
            save_channel_cfg(model.pruner.export_subnet(), files / 'subnet.yaml')


def run(job: Job, files: Path, folder: Path, kill_after: float | None = None) -> tuple[int, float]:
    """Run a job in a fork, and perhaps kill it; its exit status (-9 if killed) and its seconds."""
    arguments = [each.format(files=files, folder=folder) for each in job.arguments]
    start = time.perf_counter()
    process = os.fork()
    if process == 0:
        _become(job.tool, arguments, folder)
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        seconds = time.perf_counter() - start
        if ended:
            return os.waitstatus_to_exitcode(status), seconds
        if kill_after is not None and seconds >= kill_after:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return -9, seconds
        time.sleep(0.002)


def _become(tool: str, arguments: list[str], folder: Path) -> None:
    """Be the process of a tool, and end with it."""
    code = 1
    try:
        with (folder.parent / f'{folder.name}.log').open('a') as log:
            for number in (1, 2):
                os.dup2(log.fileno(), number)
        os.chdir(folder)
        sys.argv = [f'{tool}.py', *arguments]
        try:
            runpy.run_path(str(ROOT / 'tools' / f'{tool}.py'), run_name='__main__')
            code = 0
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else int(bool(stopped.code))
        except BaseException:
            sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def broken_files(folder: Path) -> list[str]:
    """Files under their final names that cannot be read."""
    from mmprune.checkpoint import read_checkpoint
    from mmprune.config import load_config

    readers: dict[str, Callable[[Path], object]] = {
        '.pth': read_checkpoint,
        '.yaml': lambda path: yaml.safe_load(path.read_text()),
        '.json': lambda path: json.loads(path.read_text()),
        '.onnx': lambda path: path.read_bytes()[:1] or 1 / 0,
        '.py': load_config,
    }
    found = []
    for path in folder.rglob('*'):
        # Logs of mmengine's are written line by line; what is hidden is nobody's result.
        names = path.relative_to(folder).parts
        is_hidden = any(name.startswith('.') for name in names)
        if path.is_file() and not is_hidden and 'vis_data' not in names:
            try:
                readers.get(path.suffix, lambda path: None)(path)
            except Exception as error:
                found.append(f'{path.relative_to(folder)}: {error}')
    return found


def differences(job: Job, folder: Path, expected: Path) -> list[str]:
    """What is not as in the undisturbed run."""
    found = []
    for pattern in job.same:
        names = {path.relative_to(expected) for path in expected.glob(pattern)}
        assert names, f'{job.tool} writes no {pattern}'
        for name in sorted(names):
            if not (folder / name).is_file():
                found.append(f'{name} is missing')
            elif not _alike(folder / name, expected / name):
                found.append(f'{name} differs')
    return found


def _alike(one: Path, other: Path) -> bool:
    if one.suffix == '.pth':
        from torch.testing import assert_close

        from mmprune.checkpoint import read_checkpoint

        states = [read_checkpoint(path)['state_dict'] for path in (one, other)]
        try:
            assert_close(*states, rtol=0, atol=0)
        except AssertionError:
            return False
        return True
    # Folders are named in some files, and are others.
    texts = [path.read_text().replace(str(path.parent), '') for path in (one, other)]
    return texts[0] == texts[1]


def left_over(folder: Path) -> list[str]:
    """Files, and folders of files, under temporary names."""
    return [path.name for path in folder.rglob('.*') if path.name != '.mmprune_lock']


def chaos(
    names: Sequence[str], kills: int, seed: int, work_dir: Path, minutes: float = float('inf')
) -> dict[str, Losses]:
    """Kill tools in turn, ``kills`` times in all, or for so long."""
    files = work_dir / 'files'
    files.mkdir(parents=True)
    prepare(files)
    drawn = random.Random(seed)
    losses = {name: Losses() for name in names}
    seconds: dict[str, float] = {}
    for name in names:
        (work_dir / name / 'whole').mkdir(parents=True)
        code, seconds[name] = run(JOBS[name], files, work_dir / name / 'whole')
        log = (work_dir / name / 'whole.log').read_text()
        assert code == 0, f'{name} does not run undisturbed:\n{log[-3000:]}'
    end = time.monotonic() + 60 * minutes
    for number in count():
        if sum(each.kills for each in losses.values()) == kills or time.monotonic() > end:
            break
        name = names[number % len(names)]
        job, found = JOBS[name], losses[name]
        folder = work_dir / name / str(number)
        folder.mkdir()
        moment = drawn.uniform(0, seconds[name])
        code, took = run(job, files, folder, moment)
        if code == -9:
            found.kills += 1
        else:  # it was quicker than before
            seconds[name] = min(seconds[name], took)
        where = f'kill {number} after {moment:.2f} s'
        print(f'{name}: killed after {moment:.2f} of {seconds[name]:.2f} s', file=sys.stderr)
        found.broken += [f'{where}: {each}' for each in broken_files(folder)]
        code, _ = run(job, files, folder)
        if code != 0:
            last = (work_dir / name / f'{number}.log').read_text().strip().splitlines()[-1:]
            found.not_run_again.append(f'{where}: {last}')
        else:
            whole = work_dir / name / 'whole'
            found.different += [f'{where}: {each}' for each in differences(job, folder, whole)]
            found.left_over += [f'{where}: {each}' for each in left_over(folder)]
        shutil.rmtree(folder)
    return losses


def table(losses: dict[str, Losses]) -> str:
    """The table of what was lost, in Markdown."""
    lines = [
        '| tool | kills | files broken | did not run again | ended otherwise | files left over |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for name, each in losses.items():
        cells = (name, each.kills, *map(len, (each.broken, each.not_run_again)))
        cells += tuple(map(len, (each.different, each.left_over)))
        lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines)


def main() -> int:
    """Kill as often as asked, and print what was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=50, help='in all (default: %(default)s)')
    parser.add_argument('--minutes', type=float, default=float('inf'), help='at most')
    parser.add_argument('--seed', type=int, default=0, help='of the moments (default: 0)')
    parser.add_argument('--tools', nargs='+', choices=JOBS, default=list(JOBS), help='which ones')
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import mmcls.models  # noqa: F401
    import torch

    import mmprune.commands.search_subnet  # noqa: F401

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work_dir = Path(folder) / 'chaos'
        losses = chaos(args.tools, args.kills, args.seed, work_dir, args.minutes)
    print(table(losses))
    for name, each in losses.items():
        for what in (each.broken, each.not_run_again, each.different, each.left_over):
            print(*(f'{name}, {line}' for line in what), sep='\n', end='\n' if what else '')
    return 0 if all(each.is_nothing for each in losses.values()) else 1


if __name__ == '__main__':
    sys.exit(main())
