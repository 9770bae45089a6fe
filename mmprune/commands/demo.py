"""The whole way on real images: what `make demo` shows."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel

from mmprune.commands.backends import measure_networks
from mmprune.commands.demo_report import DemoReport, Row, plot_report, report_table
from mmprune.commands.deploy_subnet import DeployedFiles, deploy_subnet
from mmprune.commands.export_subnet import export_subnet, set_from_file
from mmprune.commands.metrics import Predictions, predict_dataset
from mmprune.commands.run import train
from mmprune.commands.search_subnet import search_subnet
from mmprune.config import load_config
from mmprune.deploy.channel_cfg import load_channel_cfg
from mmprune.errors import InputError
from mmprune.fileio import check_outputs
from mmprune.models import AutoSlim
from mmprune.models.algorithm import build_algorithm, calibration_batches, load_network
from mmprune.report.tables import wide_console
from mmprune.search import SearchResult, read_candidates
from mmprune.search.greedy import fewest_trained_bins

# Finetuning starts from trained weights. The rate was chosen on the validation images.
_FINETUNE_RATE = 0.001
_FINETUNE_EPOCHS = 15
# In the folder that a demo has made, and may make anew.
_MARKER = '.mmprune_demo'
_LATENCY_BATCH, _LATENCY_SECONDS = 32, 1.0


@dataclass(frozen=True)
class _Deployed:
    """A subnet that was deployed: where it came from, and what it predicts."""

    found: SearchResult
    files: DeployedFiles
    network: BaseModel
    predictions: Predictions


class Demo:
    """Trains, searches, exports, deploys, verifies and finetunes, and tells about it.

    Every step calls the function behind one of the tools and names the command
    that does the same. What the tools print goes to ``log.txt``.

    Args:
        config: The config of the supernet and its search.
        work_dir: Where everything goes; what an earlier demo left there is removed.
        cfg_options: Values to set in the config, by dotted key.

    Raises:
        InputError: If ``work_dir`` has files that are not a demo's; they stay.
    """

    def __init__(self, config: str, work_dir: Path, cfg_options: dict[str, Any] | None) -> None:
        self.cfg = load_config(config, cfg_options)
        self.config_name = config
        self.work_dir = work_dir
        # Named here, because what the tools print is redirected.
        self.console = wide_console(sys.stdout)
        self.step_number = 0
        _renew(work_dir)
        # On images this small, the threads of one operation mostly wait for each other.
        torch.set_num_threads(1)

    def run(self) -> DemoReport:
        """Do all the steps; return the numbers that were shown."""
        start = time.perf_counter()
        checkpoint = self._train()
        results = self._search(checkpoint)
        channel_cfgs = self._export(checkpoint, results)
        deployed = self._deploy(checkpoint, results, channel_cfgs)
        report = self._compare(checkpoint, deployed)
        self.console.print(report_table(report))
        plot = self.work_dir / 'accuracy_over_macs.png'
        plot_report(report, plot)
        self.console.print(f'Plot: {plot}; all files: {self.work_dir}')
        self.console.print(f'The demo took {time.perf_counter() - start:.0f} s.')
        return report

    @contextmanager
    def _step(self, title: str, command: str) -> Iterator[None]:
        """Announce a step, send what the tool prints to the log, and tell how long it took."""
        self._announce(title)
        self.console.print(f'[dim]$ {command}', soft_wrap=True, highlight=False)
        start = time.perf_counter()
        with (self.work_dir / 'log.txt').open('a', encoding='utf-8') as log, redirect_stdout(log):
            yield
        self._say(f'[dim]{time.perf_counter() - start:.1f} s')

    def _announce(self, title: str) -> None:
        self.step_number += 1
        self.console.rule(f'[bold]{self.step_number}. {title}', align='left')

    def _say(self, text: str) -> None:
        self.console.print(f'   {text}', highlight=False, soft_wrap=True)

    def _train(self) -> Path:
        folder = self.work_dir / 'supernet'
        with self._step(
            'Train a supernet: every width of a ResNet at once',
            f'python tools/train.py {self.config_name} --work-dir {folder}',
        ):
            runner = train(self.cfg, folder)
            checkpoint = Path(str(runner.message_hub.get_info('last_ckpt')))
            algorithm = runner.model
            pruner = algorithm.pruner
            self._say(
                f'{len(pruner.channel_spaces)} prunable groups of channels, '
                f'{pruner.cost(pruner.current_subnet())["macs"]:,} MACs at full width'
            )
            accuracy = predict_dataset(algorithm.eval(), self.cfg.test_dataloader).accuracy
            self._say(f'accuracy at full width, on the test images: {accuracy:.2f} %')
        return checkpoint

    def _search(self, checkpoint: Path) -> list[SearchResult]:
        folder = self.work_dir / 'search'
        with self._step(
            'Search: drop what hurts least, down to half and to a quarter of the MACs',
            f'python tools/search_subnet.py {self.config_name} {checkpoint} --work-dir {folder}',
        ):
            results = search_subnet(self.cfg, checkpoint, folder)
            candidates = len(read_candidates(folder))
            self._say(f'{candidates} candidates evaluated on the validation images')
            for found in results:
                self._say(
                    f'budget {found.budget}: {found.macs:,} MACs, {found.params:,} parameters, '
                    f'{found.metric:.2f} % on the validation images'
                )
        return results

    def _export(self, checkpoint: Path, results: list[SearchResult]) -> list[Path]:
        written = []
        for found in results:
            out = self.work_dir / f'subnet_{found.budget}.json'
            with self._step(
                f'Export the subnet of budget {found.budget} as a channel config',
                f'python tools/export_subnet.py {self.config_name} {checkpoint} '
                f'--subnet {found.channel_cfg} --out {out}',
            ):
                written.append(
                    export_subnet(self.cfg, checkpoint, subnet=found.channel_cfg, out=out)
                )
                layers = load_channel_cfg(out).layers()
                convs = {k: v for k, v in layers.items() if 'raw_in_channels' in v}
                widths = ', '.join(
                    f'{entry["out_channels"]}/{entry["raw_out_channels"]}'
                    for entry in convs.values()
                )
                self._say(f'output channels of its {len(convs)} layers: {widths}')
        return written

    def _deploy(
        self, checkpoint: Path, results: list[SearchResult], channel_cfgs: list[Path]
    ) -> list[_Deployed]:
        deployed = []
        for found, channel_cfg in zip(results, channel_cfgs, strict=True):
            folder = self.work_dir / f'deployed_{found.budget}'
            with self._step(
                f'Verify the subnet of budget {found.budget}, and deploy it as a plain network',
                f'python tools/deploy_subnet.py {self.config_name} {checkpoint} {channel_cfg} '
                f'--out-dir {folder} --onnx',
            ):
                files = deploy_subnet(self.cfg, checkpoint, channel_cfg, folder, onnx=True)
                network = load_network(files.config, files.checkpoint)
                predictions = predict_dataset(network, self.cfg.test_dataloader)
                deployed.append(_Deployed(found, files, network, predictions))
                self._say(str(files.verified))
                for file in (files.checkpoint, files.onnx):
                    if file is not None:
                        self._say(f'{file}: {file.stat().st_size:,} bytes')
        return deployed

    def _finetune(self, deployed: _Deployed) -> float:
        """Train a deployed network a little; return its accuracy on the test images."""
        folder = self.work_dir / f'finetuned_{deployed.found.budget}'
        epochs = min(_FINETUNE_EPOCHS, int(self.cfg.train_cfg.max_epochs))
        settings = {
            'optim_wrapper.optimizer.lr': _FINETUNE_RATE,
            'train_cfg.max_epochs': epochs,
            'train_cfg.val_interval': epochs,
            'default_hooks.checkpoint.interval': epochs,
            'param_scheduler.1.end': epochs,
        }
        options = ' '.join(f'{key}={value}' for key, value in settings.items())
        with self._step(
            f'Finetune the network of budget {deployed.found.budget}',
            f'python tools/train.py {deployed.files.config} --work-dir {folder} '
            f'--cfg-options {options}',
        ):
            runner = train(deployed.files.config, folder, cfg_options=settings)
            accuracy = predict_dataset(runner.model.eval(), self.cfg.test_dataloader).accuracy
            self._say(f'accuracy on the test images: {accuracy:.2f} %')
        return accuracy

    def _compare(self, checkpoint: Path, deployed: list[_Deployed]) -> DemoReport:
        """Finetune, and collect every number for the table and the plot."""
        finetuned = [self._finetune(each) for each in deployed]
        self._announce('The same numbers before and after')
        algorithm = build_algorithm(self.cfg, checkpoint)
        batches = calibration_batches(self.cfg, algorithm.recalibration)
        pruner = algorithm.pruner
        pruner.set_max_channel()
        plain = pruner.deploy_subnet(algorithm.architecture, pruner.export_subnet()).eval()
        networks = {'': plain, **{each.found.budget: each.network for each in deployed}}
        times = measure_networks(networks, self._images(), 'torch', _LATENCY_SECONDS)
        latencies = [1e3 * each.median for each in times.values()]
        inside = predict_dataset(algorithm, self.cfg.test_dataloader)
        outside = predict_dataset(plain, self.cfg.test_dataloader)
        full_cost = pruner.cost(pruner.current_subnet())
        rows = [self._row('full network', full_cost, inside, outside, None, latencies[0])]
        for each, accuracy, latency in zip(deployed, finetuned, latencies[1:], strict=True):
            set_from_file(algorithm, each.files.channel_cfg)
            algorithm.recalibrate(batches)
            inside = predict_dataset(algorithm, self.cfg.test_dataloader)
            cost = {'macs': each.found.macs, 'params': each.found.params}
            name = f'subnet, budget {each.found.budget}'
            rows.append(self._row(name, cost, inside, each.predictions, accuracy, latency))
        return DemoReport(rows, self._uniform(algorithm, batches), _LATENCY_BATCH)

    def _row(
        self,
        name: str,
        cost: dict[str, int],
        inside: Predictions,
        outside: Predictions,
        finetuned: float | None,
        latency: float,
    ) -> Row:
        """Compare what a subnet predicts in the supernet and deployed, image by image."""
        different = inside.num_different(outside)
        self._say(
            f'{name}: of {len(inside.labels)} test images, deployed and supernet call '
            f'{different} by different names'
        )
        return Row(
            name=name,
            **cost,
            num_images=len(inside.labels),
            supernet=inside.accuracy,
            deployed=outside.accuracy,
            num_different=different,
            finetuned=finetuned,
            latency_ms=latency,
        )

    def _uniform(self, algorithm: AutoSlim, batches: list[Any]) -> list[tuple[int, float]]:
        """Return MACs and accuracy of the same supernet with all layers equally narrow."""
        pruner = algorithm.pruner
        num_bins = int(self.cfg.search_cfg.max_channel_bins)
        points = []
        for kept in range(fewest_trained_bins(pruner, num_bins)[0], num_bins + 1):
            bins = pruner.get_max_channel_bins(num_bins)
            for ones in bins.values():
                ones[kept:] = 0
            subnet = pruner.bins_to_subnet(bins, num_bins)
            pruner.set_subnet(subnet)
            algorithm.recalibrate(batches)
            accuracy = predict_dataset(algorithm, self.cfg.test_dataloader).accuracy
            points.append((pruner.cost(subnet)['macs'], accuracy))
        return points

    def _images(self) -> torch.Tensor:
        shape = tuple(self.cfg.model.input_shape)
        return torch.rand((_LATENCY_BATCH, *shape[1:]), generator=torch.Generator().manual_seed(0))


def run_demo(
    config: str, work_dir: str | Path, cfg_options: dict[str, Any] | None = None
) -> DemoReport:
    """Run the demo; see :class:`Demo`."""
    return Demo(config, Path(work_dir), cfg_options).run()


def _renew(folder: Path) -> None:
    """Make an empty folder for a demo; remove one only if a demo has made it."""
    check_outputs(folders=[folder])
    marker = folder / _MARKER
    if folder.exists() and any(folder.iterdir()):
        if not marker.is_file():
            raise InputError(
                f'{folder}: has files that are not of an earlier demo; give another --work-dir.'
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
