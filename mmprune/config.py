"""Finding and reading config files."""

import logging
import os
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config
from mmengine.fileio import BaseFileHandler
from mmengine.fileio.io import file_handlers
from mmengine.logging import print_log
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import init_default_scope

from mmprune.building import check_parts, refuse_options
from mmprune.datafiles import parse_json, parse_yaml
from mmprune.dependencies import require
from mmprune.errors import InputError, MissingFileError, nearest
from mmprune.fileio import no_file
from mmprune.registry import DATASETS, HOOKS, LOOPS, MODELS
from mmprune.renamed_configs import RENAMED
from mmprune.schema import checked

_PACKAGE = Path(__file__).resolve().parent
# Whose code is no config's: Python's, that of packages, and this one.
_LIBRARIES = tuple(
    map(str, (Path(os.__file__).parent, Path(mmengine.__file__).parents[1], _PACKAGE))
)
# In a normal install, and in a source tree.
CONFIG_ROOTS = (_PACKAGE / '.mim' / 'configs', _PACKAGE.parent / 'configs')

_KINDS: dict[str, Any] = {
    **dict.fromkeys(('model', 'data_preprocessor', 'pruner', 'prune_cfg', 'search_cfg'), Mapping),
    **{
        f'{part}_{what}': Mapping
        for part in ('train', 'val', 'test')
        for what in ('cfg', 'dataloader')
    },
    **dict.fromkeys(('optim_wrapper', 'default_hooks', 'randomness', 'env_cfg'), Mapping),
    **dict.fromkeys(('default_scope', 'load_from', 'work_dir', 'log_level'), str),
    **dict(custom_hooks=list, param_scheduler=Mapping | list, resume=bool),
}
"""What some settings must be."""
_DISTILLED = "model=dict(type='mmprune.DistilledModel', architecture=..., teacher=..., ...)"
_HERE = {
    'algorithm': "model=dict(type='mmprune.AutoSlim', architecture=<the network>, pruner=...)",
    'searcher': "search_cfg=dict(type='mmprune.GreedySearchLoop', targets=[...])",
    **dict.fromkeys(
        ('MMClsArchitecture', 'MMDetArchitecture', 'MMSegArchitecture'),
        "the network itself, architecture=dict(type='ImageClassifier', ...) or another",
    ),
    'GreedySearcher': "search_cfg=dict(type='mmprune.GreedySearchLoop', targets=[...])",
    'EvolutionSearcher': "search_cfg=dict(type='mmprune.EvolutionSearchLoop', constraints=...)",
    **dict.fromkeys(('SingleTeacherDistiller', 'GeneralDistill'), _DISTILLED),
    'GroupFisherAlgorithm': 'the network itself, and a hook mmprune.IterativePruning',
    'DMCP': "model=dict(type='mmprune.AutoSlim', ...) with a MarkovPruner, and a hook mmprune.DMCP",
    'DCFF': 'the network itself, and a hook mmprune.DCFF',
    **dict.fromkeys(
        ('GroupFisherDeploySubModel', 'DMCPDeploySubModel', 'DCFFDeploySubModel'),
        "model=dict(type='mmprune.DeployedModel', model=..., channel_cfg=...)",
    ),
}
"""What MMRazor calls it -> what it is here."""
# What mmengine says of settings when it builds something.
_OF_SETTINGS = re.compile(
    'must contain the key "type"|type must be a str or valid type|should be either all None'
)


def load_config(
    config: str | os.PathLike[str] | Config, cfg_options: dict[str, Any] | None = None
) -> Config:
    """Read a config, and set what the command line overrides.

    Args:
        config: A config file, which :func:`find_config` finds, or a config
            that was read already, which stays as it is.
        cfg_options: Values by dotted key, such as ``{'train_cfg.max_epochs': 3}``.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If the file is not a config, or an option does not fit it.
    """
    if isinstance(config, Config):
        cfg, name = deepcopy(config), config.filename
    else:
        name = str(config)
        cfg = _read(find_config(config), name)
    try:
        cfg.merge_from_dict(cfg_options or {})
    except (KeyError, TypeError) as error:
        raise InputError(f'{name}: --cfg-options {cfg_options} do not fit: {error}') from error
    for key, kind in _KINDS.items():
        checked(kind | None, cfg.get(key), f'{name}: {key}')
    unnamed = [key for key in cfg if not str(key).isidentifier() or iskeyword(str(key))]
    if unnamed:
        raise InputError(f'{name}: not a config: {unnamed[0]!r} cannot be the name of a setting')
    for key in ('algorithm', 'searcher'):
        # It would be trained or pruned without them, and nobody would know.
        if isinstance(cfg.get(key), Mapping) and cfg[key].get('type'):
            raise InputError(f'{name}: {key}=dict({about_mmrazor(cfg[key]["type"], key)}')
    return cfg


def files_of(cfg: Config, *others: str | os.PathLike[str] | None) -> list[str]:
    """All files that a config is read from or names, and others, which must not be lost."""
    # mmengine puts in front of the text of each file that a config builds on where that lies.
    found = [line for line in cfg.text.splitlines() if os.path.isabs(line)]
    found += [os.path.expanduser(each) for each in (cfg.filename, *others) if each is not None]
    left: list[Any] = [*cfg.values()]
    while left:
        part = left.pop()
        if isinstance(part, Mapping):
            left += part.values()
            if isinstance(root := part.get('data_root'), str):
                left += [os.path.join(root, v) for v in part.values() if isinstance(v, str)]
        elif isinstance(part, list | tuple):
            left += part
        elif isinstance(part, str):
            found.append(os.path.expanduser(part))
    return [file for file in dict.fromkeys(found) if _is_file(file)]


def plain(value: Any) -> Any:
    """A part of a config as data that JSON can hold; the same for two of equal meaning."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, str | int | float | None):
        return value
    named = getattr(value, '__qualname__', None)
    return f'{value.__module__}.{named}' if named else re.sub(' at 0x[0-9a-f]+', '', repr(value))


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What differs in plain settings: dotted names -> ``was ..., is ...``."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    return {
        key: f'was {old.get(key)}, is {new.get(key)}'
        for key in new | old
        if new.get(key) != old.get(key)
    }


def _leaves(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """The values in nested settings by dotted names."""
    if isinstance(value, Mapping | list | tuple) and value:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, each in items:
            yield from _leaves(each, f'{name}.{key}' if name else str(key))
    else:
        yield name, [] if isinstance(value, Mapping | list | tuple) else value


def _is_file(name: str) -> bool:
    try:
        return os.path.isfile(name)
    except ValueError:  # no name of a file
        return False


def about_mmrazor(kind: Any, key: str = '') -> str:
    """What to write in the place of a type, or key, of MMRazor's; empty for others."""
    name = str(kind).rpartition('.')[2]
    here = _HERE.get(name) or _HERE.get(key, '')
    return here and f"type='{name}', ...) is of MMRazor; here it is {here}: docs/from-mmrazor.md"


def find_config(config: str | os.PathLike[str]) -> Path:
    """Find a config file, also one that comes with mmprune.

    Args:
        config: A path, a path inside mmprune's ``configs``, or the mere name
            of one of the files there; names of before 0.2 are found, and the new ones said.

    Raises:
        MissingFileError: If there is none; the message offers similar names.
    """
    if not no_file(config):
        return Path(config).expanduser()
    path = Path(str(config))
    own = [
        (file, root)
        for root in CONFIG_ROOTS
        if root.is_dir()
        for file in sorted(root.rglob('*.py'))
        if '_base_' not in file.parts
    ]
    for file, root in own:
        if file.name == str(config) or file == root / path:
            return file
    new_name = RENAMED.get(path.name)
    for file, _ in own:
        if file.name == new_name:
            print_log(f'{config} is called {new_name} since 0.2', 'current', logging.WARNING)
            return file
    names = sorted({file.name for file, _ in own})
    raise MissingFileError(
        f'{config}: no such config file, neither from here ({Path.cwd()}) nor among those of '
        f'mmprune; {nearest(path.name, names, 4)}'
    )


def work_dir_of(cfg: Config, given: str | os.PathLike[str] | None = None, more: str = '') -> Path:
    """Where a tool writes: as given, as the config says, or ``work_dirs/<config><more>``."""
    default = Path('work_dirs') / f'{Path(cfg.filename or "config").stem}{more}'
    return Path(given or cfg.get('work_dir') or default)


@contextmanager
def enter_scope(cfg: Config) -> Iterator[None]:
    """Let the names of a config mean what its ``default_scope`` says, from here on.

    Without a ``default_scope`` they are mmengine's own, and those that the config writes with
    their package in front, as in ``type='mmcls.ImageClassifier'``.

    Args:
        cfg: The config that something is built from inside of the ``with`` block.

    Raises:
        InputError: The package of that scope is not installed or does not work here, lacks one
            that it imports, or a name is not known in it, or one of its classes has no such option.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    where = f"{cfg.filename or 'the config'}: default_scope='{scope}'"
    if scope not in MMENGINE_MODELS.children:
        if find_spec(scope) is None:
            raise InputError(
                f'{where}: there is no such package here. Install it, or name the one that your '
                "model is from, such as default_scope='mmpretrain'."
            )
        require(scope, where)
    # What mmcv-lite says at every import. A network that needs those operators says so itself.
    warnings.filterwarnings('ignore', 'Fail to import ``MultiScaleDeformableAttention``')
    init_default_scope(scope)
    check_parts(dict(cfg.items()), (MODELS, HOOKS, LOOPS, DATASETS), cfg.filename or 'the config')
    try:
        yield
    except ImportError as error:
        raise InputError(f'{where}: {error}. Install what is missing.') from error
    except (TypeError, ValueError, KeyError) as error:
        if isinstance(error, TypeError):
            refuse_options(error, cfg.filename or 'the config')
        unknown = re.search(r'([\w.]+) is not in the [\w. -]+::[\w. -]+ registry', str(error))
        if unknown is None:
            if isinstance(error, InputError) or not _OF_SETTINGS.search(str(error)):
                raise
            reason = ' '.join(str(error).split())
            raise InputError(f'{cfg.filename or "the config"}: {reason}') from error
        razor = about_mmrazor(unknown[1])
        if razor:
            raise InputError(f'{cfg.filename or "the config"}: dict({razor}') from error
        hint = (
            "is it spelled right, and imported by the config's custom_imports?"
            if cfg.get('default_scope')
            else 'the config has no default_scope. Name the package that it is from, as in '
            "default_scope='mmcls' or type='mmcls.ImageClassifier'."
        )
        raise InputError(
            f"{cfg.filename or 'the config'}: '{unknown[1]}' is not known: {hint}"
        ) from error


class _Data(BaseFileHandler):
    """Plain data, in the form in which mmengine registers formats; ``parse`` reads it."""

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self.parse = parse

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Read a file."""
        return self.parse(file.read())

    dump_to_fileobj = dump_to_str = None


@contextmanager
def _only_data() -> Iterator[None]:
    """Have mmengine read YAML and JSON as data, also what a config builds on.

    Its own way of reading YAML runs what a file says.
    """
    before = dict(file_handlers)
    file_handlers.update(yaml=_Data(parse_yaml), yml=_Data(parse_yaml), json=_Data(parse_json))
    try:
        yield
    finally:
        file_handlers.update(before)


@contextmanager
def _read_base_noted() -> Iterator[list[str]]:
    """Note the files of configs with ``read_base()``, whose text lacks what they build on."""
    parse, found = Config._parse_lazy_import, []

    def noting(filename: str) -> Any:
        found.append(os.path.abspath(filename))
        return parse(filename)

    Config._parse_lazy_import = staticmethod(noting)
    try:
        yield found
    finally:
        Config._parse_lazy_import = staticmethod(parse)


def _read(file: Path, name: str) -> Config:
    """Read a config file; what it imports and inherits is read with it."""
    try:
        with _only_data(), _read_base_noted() as bases:
            cfg = Config.fromfile(file)
            vars(cfg)['_text'] = '\n'.join([*bases, cfg.text])
            return cfg
    except FileNotFoundError as error:
        raise MissingFileError(f'{name}: a file it builds on is missing: {error}') from error
    except ImportError as error:
        raise InputError(f'{name}: {error}') from error
    except UnboundLocalError as error:  # mmengine copies it to a temporary folder
        raise InputError(f'{name}: cannot be read: {error.__context__ or error}') from error
    except Exception as error:  # it is a program
        reason = ' '.join(str(error).split()).rstrip('!.')
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
        if own:
            reason = (
                f'line {own[-1].lineno} of {own[-1].filename}: {type(error).__name__}: {reason}'
            )
        raise InputError(
            f'{name}: not a config file: {reason}. A config is a Python, YAML or JSON file of '
            'settings, such as configs/digits/resnet-small_1xb64_digits.py.'
        ) from error
