"""What a diagnosis of a network says: its findings, what was verified, what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmprune.deploy import VerifyReport
from mmprune.report.findings import Findings
from mmprune.report.report import percent, report_of


@dataclass(frozen=True)
class Verified:
    """One random subnet, compared sliced and masked with the deployed network.

    Attributes:
        name: Which subnet.
        params: Share of the parameters that it has.
        report: What the comparison gave.
    """

    name: str
    params: float
    report: VerifyReport


@dataclass(frozen=True)
class Problem:
    """Why a network cannot be prepared.

    Attributes:
        stage: ``'run'``: it fails on the input; ``'trace'``: its run cannot be read;
            ``'prepare'``: its subnets fail, or the pruner's options do not suit it;
            ``'mmprune'``: a fault of mmprune's own.
        message: What happened, for a person.
        module: Where, if that is known: a module's name and class.
        details: A traceback, where it helps.
    """

    stage: str
    message: str
    module: str = ''
    details: str = ''


@dataclass(frozen=True)
class Diagnosis:
    """The doctor's report on one network.

    Attributes:
        config: The config's name.
        model: Class of the network.
        input: What it was run on, in words.
        weights: Where its weights are from, in words.
        findings: What is known about its channels; None if it could not be prepared.
        verified: Random subnets.
        problem: Why it could not be prepared.
    """

    config: str
    model: str
    input: str
    weights: str
    findings: Findings | None = None
    verified: Sequence[Verified] = ()
    problem: Problem | None = None

    @property
    def is_prunable(self) -> bool:
        """Whether there is any channel that can be removed."""
        return self.findings is not None and self.findings.prunable_groups > 0

    @property
    def is_verified(self) -> bool:
        """Whether every subnet that was tried is the same deployed."""
        return bool(self.verified) and all(found.report.ok for found in self.verified)

    @property
    def exit_status(self) -> int:
        """0 if something is prunable and verified, else 1."""
        return 0 if self.is_prunable and self.is_verified else 1

    @property
    def verdict(self) -> str:
        """The diagnosis in one sentence."""
        if self.problem is not None:
            return f'NOT PRUNABLE: {_REASONS[self.problem.stage]}'
        assert self.findings is not None
        if not self.is_prunable:
            return 'NOT PRUNABLE: every channel group is pinned, see the reasons'
        if not self.is_verified:
            wrong = [found.report for found in self.verified if not found.report.ok]
            where = wrong[0].first_diverging_module if wrong else ''
            return f"NOT VERIFIED: subnets part from their deployed networks at '{where}'"
        params = percent(self.findings.prunable_params)
        macs = percent(self.findings.prunable_macs)
        full, half = self.findings.full, self.findings.half
        tried = len(self.verified)
        return (
            f'PRUNABLE: {params} of the parameters and {macs} of the MACs (half of every group '
            f'keeps {half.params / max(full.params, 1):.1%} and '
            f'{half.macs / max(full.macs, 1):.1%}), '
            f'{tried} random {"subnet" if tried == 1 else "subnets"} verified'
        )

    def text(self, members: bool = True) -> str:
        """The whole diagnosis for a person."""
        lines = [
            f'diagnosis of {self.config}: {self.model}',
            f'input: {self.input}',
            f'weights: {self.weights}',
            '',
        ]
        if self.problem is not None:
            lines += _problem_lines(self.problem)
        if self.findings is not None:
            lines += [report_of(self.findings, members)]
        if self.verified:
            lines.append('random subnets, sliced and masked, against the deployed network')
            lines += [
                f'  {found.name}, {found.params:.1%} of the parameters: {found.report}'
                for found in self.verified
            ]
        return '\n'.join([*lines, '', self.verdict]) + '\n'

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            'config': self.config,
            'model': self.model,
            'input': self.input,
            'weights': self.weights,
            'verdict': self.verdict,
            'exit_status': self.exit_status,
            'problem': None if self.problem is None else vars(self.problem),
            'findings': None if self.findings is None else self.findings.as_dict(),
            'verified': [
                {
                    'subnet': found.name,
                    'params': found.params,
                    **vars(found.report),
                    'max_rel_err': _finite(found.report.max_rel_err),
                }
                for found in self.verified
            ],
        }


_REASONS = {
    'run': 'the network cannot be run on this input',
    'trace': 'the network cannot be traced',
    'prepare': 'the network cannot be prepared as the pruner is set',
    'mmprune': 'mmprune fails on this network; please report it, with this file',
}


def _problem_lines(problem: Problem) -> list[str]:
    lines = [_REASONS[problem.stage]]
    if problem.module:
        lines.append(f'where: {problem.module}')
    lines.append(f'what: {problem.message}')
    if problem.details:
        lines += ['', problem.details.rstrip()]
    return lines


def _finite(number: float) -> float | None:
    """JSON has no infinity."""
    return number if number < float('inf') else None
