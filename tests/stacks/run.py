"""Build the stacks that mmprune is to work with, try each, and write the table of what ran.

  python tests/stacks/run.py                   every stack that takes minutes at most
  python tests/stacks/run.py plain onedl       these
  python tests/stacks/run.py --write           put the table into README.md and docs/stacks.md

Exit status 1 if one fails. A stack whose wheel is not there is skipped, and said so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from environments import FOLDER, ROOT, STACKS, Stack, build, python_of

PAGES = ('README.md', 'docs/stacks.md')
BEGIN, END = '<!-- stacks: begin -->', '<!-- stacks: end -->'
RESULTS = FOLDER / 'results.json'


@dataclass(frozen=True)
class Result:
    """What came of one stack.

    Attributes:
        name: The stack's.
        note: The stack's.
        state: ``'passes'``, or why it does not.
        versions: Packages by what they are.
        seconds_to_import: For mmprune and all that a plain network needs, on top of torch.
    """

    name: str
    note: str
    state: str
    versions: Mapping[str, str]
    seconds_to_import: float = 0.0


def attempt(stack: Stack) -> Result:
    """Build a stack and run the smoke test in it; what it prints goes to a log file."""
    missing = build(stack)
    if missing:
        print(f'SKIPPED {stack.name}: {missing}', file=sys.stderr, flush=True)
        return Result(stack.name, stack.note, f'not run: {missing}', {})
    log = FOLDER / f'{stack.name}.log'
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONNOUSERSITE': '1'}
    command = [str(python_of(stack)), str(Path(__file__).with_name('smoke.py')), stack.scope]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(
            command, cwd=folder, env=environment, text=True, capture_output=True, check=False
        )
    FOLDER.mkdir(exist_ok=True)
    log.write_text(found.stdout + found.stderr, encoding='utf-8')
    seconds = time.monotonic() - start
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ['no message'])[-1]
        print(f'FAILED {stack.name}: {last} (all of it: {log})', file=sys.stderr, flush=True)
        return Result(stack.name, stack.note, 'FAILS', {})
    measured: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    print(f'{stack.name} passes in {seconds:.0f} s: {json.dumps(measured)}', flush=True)
    return Result(
        stack.name, stack.note, 'passes', measured['versions'], measured['seconds to import']
    )


def markdown(results: Iterable[Result]) -> str:
    """The table, one row a stack."""
    columns = ('mmengine', 'mmcv', 'model zoo')
    lines = [
        '| stack | mmengine | mmcv | model zoo | smoke test | |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for result in results:
        versions = [result.versions.get(name, '') for name in columns]
        lines.append(f'| {" | ".join([result.name, *versions, result.state, result.note])} |')
    return '\n'.join(lines)


def about(results: Sequence[Result]) -> str:
    """What the table was made with."""
    torch = {result.versions['torch'] for result in results if result.versions}
    return f'Python {platform.python_version()}, {", ".join(sorted(torch))}, {platform.system()}.'


def insert(text: str, table: str, page: str) -> str:
    """``text`` with the table between its markers.

    Raises:
        ValueError: The markers are not there once each.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f'{page}: needs one line {BEGIN!r} and after it one line {END!r}')
    before, _, rest = text.partition(BEGIN)
    return f'{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}'


def remembered() -> dict[str, Result]:
    """Results of earlier runs by the name of the stack: one may take half an hour."""
    if not RESULTS.is_file():
        return {}
    rows = json.loads(RESULTS.read_text(encoding='utf-8'))
    return {row['name']: Result(**row) for row in rows}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [stack.name for stack in STACKS]
    parser.add_argument('stacks', nargs='*', metavar='STACK', help=f'some of {", ".join(names)}')
    parser.add_argument('--write', action='store_true', help=f'into {" and ".join(PAGES)}')
    args = parser.parse_args()
    unknown = set(args.stacks) - set(names)
    if unknown:
        parser.error(f'no stack {", ".join(sorted(unknown))}; there are {", ".join(names)}')
    chosen = [s for s in STACKS if s.name in args.stacks or not (args.stacks or s.only_by_name)]
    tried = {stack.name: attempt(stack) for stack in chosen}
    known = {**remembered(), **{n: r for n, r in tried.items() if r.state == 'passes'}}
    FOLDER.mkdir(exist_ok=True)
    kept = [asdict(known[name]) for name in names if name in known]
    RESULTS.write_text(json.dumps(kept, indent=1) + '\n', encoding='utf-8')
    print(markdown(tried.values()))
    if args.write:
        rows = [tried[n] if n in tried else known[n] for n in names if n in tried or n in known]
        for page in PAGES:
            text = (ROOT / page).read_text(encoding='utf-8')
            new = insert(text, f'{markdown(rows)}\n\n{about(rows)}', page)
            (ROOT / page).write_text(new, encoding='utf-8')
    sys.exit(any(result.state == 'FAILS' for result in tried.values()))


if __name__ == '__main__':
    main()
