"""Files that people and services expect in a repository agree with the project."""

import os
import re
from pathlib import Path

import pytest
import yaml

import mmprune

ROOT = Path(__file__).resolve().parents[1]
NAMED = re.compile(r'(?<![\w/.-])((?:\.ci|configs|docs|tools|requirements)/[\w./-]*\w)')


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding='utf-8')


@pytest.mark.parametrize(
    'name',
    [
        *('.github/workflows/ci.yml', '.pre-commit-config.yaml', 'CITATION.cff'),
        *sorted(f'.github/ISSUE_TEMPLATE/{p.name}' for p in (ROOT / '.github').rglob('*.yml')
                if p.parent.name == 'ISSUE_TEMPLATE'),
    ],
)  # fmt: skip
def test_yaml_is_read_and_names_what_exists(name: str) -> None:
    assert yaml.safe_load(read(name))
    assert not [path for path in NAMED.findall(read(name)) if not (ROOT / path).exists()]


def test_the_workflow_runs_what_everybody_runs() -> None:
    jobs = yaml.safe_load(read('.github/workflows/ci.yml'))['jobs']
    commands = [step['run'] for job in jobs.values() for step in job['steps'] if 'run' in step]
    assert commands == ['.ci/run']
    assert os.access(ROOT / '.ci' / 'run', os.X_OK)


def test_versions_agree() -> None:
    assert yaml.safe_load(read('CITATION.cff'))['version'] == mmprune.__version__
    assert f'\n## {mmprune.__version__}\n' in read('CHANGELOG.md')
    lines = read('requirements/constraints.txt').splitlines()
    pinned = dict(line.split('==') for line in lines if '==' in line)
    repos = yaml.safe_load(read('.pre-commit-config.yaml'))['repos']
    hooks = {each['repo']: each['rev'] for each in repos}
    assert hooks['https://github.com/astral-sh/ruff-pre-commit'] == f'v{pinned["ruff"]}'


def test_links_of_the_changelog_lead_somewhere() -> None:
    for link in re.findall(r'\]\(([^)]+)\)', read('CHANGELOG.md')):
        assert link.startswith('https://') or (ROOT / link.partition('#')[0]).is_file()


def test_the_translation_follows_the_readme() -> None:
    """Code, commands, figures of the zoo and links are the same in both."""
    english, chinese = read('README.md'), read('README_zh-CN.md')
    for pattern in (r'^```.*?^```$', r'^\| [\w/.-]+ \| [\d.]+ M \|.*$', r'^\| `[^|]*(?=\|)'):
        flags = re.MULTILINE | (re.DOTALL if pattern.startswith('^`') else 0)
        found = [re.sub('、', ', ', each).strip() for each in re.findall(pattern, chinese, flags)]
        assert found == [each.strip() for each in re.findall(pattern, english, flags)]
    links = [set(re.findall(r'\]\(([^)]+)\)', text)) for text in (english, chinese)]
    assert links[0] ^ links[1] == {'README.md', 'README_zh-CN.md'}
