"""What tools/search_subnet.py does."""

import os
from copy import deepcopy
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from mmprune.building import check_options, check_types
from mmprune.checkpoint import read_checkpoint
from mmprune.commands.prune_options import searchable_config
from mmprune.commands.run import absolute, build_runner
from mmprune.commands.tables import results_table
from mmprune.config import about_mmrazor, files_of, load_config, work_dir_of
from mmprune.errors import InputError, nearest
from mmprune.fileio import check_outputs
from mmprune.missing_data import data_named
from mmprune.models.algorithm import check_is_supernet, load_supernet
from mmprune.registry import LOOPS
from mmprune.report.tables import show
from mmprune.search import SearchLoop, SearchResult
from mmprune.search.storage import WRITTEN
from mmprune.wrappers import without_wrapper


def search_subnet(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str],
    work_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = 'none',
    storage: str | None = None,
    study: str | None = None,
    imported: str | os.PathLike[str] | None = None,
) -> list[SearchResult]:
    """Search a trained supernet, or any trained network, for subnets under the config's budgets.

    The config's ``search_cfg`` is a search loop in LOOPS, and runs in the place
    of its validation loop, with ``val_dataloader`` and ``val_evaluator`` unless
    it has its own. The model of a config may be a plain network: its pruner, or an importance by
    the L1 norm, then says which channels each width keeps, and candidates are judged without any
    training, after recalibration of norms or after compensation.

    Args:
        config: A config with ``search_cfg``; its model is an AutoSlim or any other network.
        checkpoint: The supernet's checkpoint, or the plain network's.
        work_dir: Where the study, the channel configs and the log go; by
            default the config's ``work_dir``, or ``work_dirs/<config>_search``.
        resume: Go on from the study in the work directory, if there is one, and share its work with
            others. Without it, what an earlier search has left there goes to ``earlier_<number>``.
        cfg_options: Values to set in the config, by dotted key.
        launcher: ``'none'``, ``'pytorch'`` or ``'slurm'``: several processes share
            the validation images of each candidate.
        storage: A journal file, or the URL of a database, for the study. All searches that name it
            share its work.
        study: Its name there; the config's if None.
        imported: A ``search_history.jsonl`` to begin with.

    Returns:
        One result per budget, in the order in which they were found.

    Raises:
        InputError: If the config has no ``search_cfg``, the checkpoint does not fit, a budget
            cannot be met, the study is of another search, or another run writes there.
    """
    cfg = load_config(config, cfg_options)
    for key in ('search_cfg', 'val_dataloader', 'val_evaluator'):
        if not cfg.get(key):
            raise InputError(
                f'{cfg.filename}: a search needs {key}, for example search_cfg='
                "dict(type='mmprune.GreedySearchLoop', targets=[0.5, 0.25])."
            )
    kind = cfg.search_cfg.get('type')
    loop_class = LOOPS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(loop_class, type) and issubclass(loop_class, SearchLoop)):
        known = [name for name, each in LOOPS.module_dict.items() if issubclass(each, SearchLoop)]
        raise InputError(
            f'{cfg.filename}: search_cfg.type is {kind}, which is no search loop; '
            f'{about_mmrazor(kind) or nearest(str(kind), known)}'
        )
    given = {key: value for key, value in cfg.search_cfg.items() if key != 'type'}
    check_options(loop_class, given, f'{cfg.filename}: search_cfg ({kind})')
    check_types(loop_class, given, f'{cfg.filename}: search_cfg')
    where = dict(storage=storage, study=study, imported=imported)
    where = {key: str(value) for key, value in where.items() if value is not None}
    cfg.val_cfg = deepcopy(cfg.search_cfg)  # a class in it stays what can be written
    cfg.val_cfg.update(resume=resume, **where)
    cfg.work_dir = absolute(work_dir_of(cfg, work_dir, '_search'))
    if storage is not None and '://' not in str(storage):
        check_outputs([storage])
    check_outputs(folders=[cfg.work_dir], inputs=files_of(cfg, checkpoint), patterns=WRITTEN)
    cfg.load_from, cfg.resume = None, False
    if cfg.get('train_dataloader'):  # without the others a Runner refuses its images
        cfg.setdefault('train_cfg', dict(by_epoch=True, max_epochs=1))
        cfg.setdefault('optim_wrapper', dict(optimizer=dict(type='SGD', lr=0.01)))
    read_checkpoint(checkpoint)
    cfg = searchable_config(cfg)
    runner = build_runner(cfg, launcher)
    algorithm = without_wrapper(runner.model)
    check_is_supernet(algorithm, str(cfg.filename))
    load_supernet(algorithm, checkpoint)
    with data_named(cfg):
        runner.val()
    loop = runner.val_loop
    assert isinstance(loop, SearchLoop)
    if is_main_process():
        show(results_table(loop.full_cost, loop.results, loop.metric))
    return loop.results
