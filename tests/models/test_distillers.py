import math
from typing import Any

import pytest
import torch
from torch import nn

from mmprune.errors import InputError
from mmprune.models import KLDivergence, SelfDistiller


def component(**settings: Any) -> dict[str, Any]:
    return {
        'student_module': 'fc',
        'teacher_module': 'fc',
        'losses': [{'type': 'KLDivergence', 'tau': 2.0, 'loss_weight': 3.0}],
        **settings,
    }


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.parts = nn.ModuleDict({'unused': nn.Linear(3, 4)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).softmax(1)


def test_kl_divergence_by_hand() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2), at temperature 1.
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    student = torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(KLDivergence(loss_weight=2.0)(student, teacher)) == pytest.approx(2 * expected)
    # At temperature 2 the logits are halved and the loss is multiplied by 4.
    assert float(KLDivergence(tau=2.0)(student, 2 * teacher)) == pytest.approx(4 * expected)


def test_kl_divergence_is_an_average_over_samples_and_zero_for_equals() -> None:
    logits, other = torch.randn(5, 7), torch.randn(5, 7)
    loss = KLDivergence()
    assert float(loss(logits, logits + 3.0)) == pytest.approx(0.0, abs=1e-6)
    single = torch.stack([loss(a[None], b[None]) for a, b in zip(logits, other, strict=True)])
    torch.testing.assert_close(loss(logits, other), single.mean())


def test_kl_divergence_teaches_the_student_only() -> None:
    student, teacher = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    KLDivergence()(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_kl_divergence_needs_a_temperature() -> None:
    with pytest.raises(ValueError, match='tau must be above 0, got 0'):
        KLDivergence(tau=0)


def test_distiller_compares_the_named_modules_and_leaves_no_hook() -> None:
    network, distiller = Network(), SelfDistiller([component()])
    first, second = torch.randn(2, 3), torch.randn(2, 3)
    with distiller.teacher(network):
        network(first)
    with distiller.student(network):
        network(second)
    losses = distiller.loss()

    expected = KLDivergence(2.0, loss_weight=3.0)(network.fc(second), network.fc(first))
    torch.testing.assert_close(losses, {'fc.kldivergence_loss': expected})
    assert not network.fc._forward_hooks


def test_losses_of_one_kind_need_names() -> None:
    two = [{'type': 'KLDivergence'}, {'type': 'KLDivergence', 'tau': 4}]
    with pytest.raises(ValueError, match='kldivergence: give a `name`'):
        SelfDistiller([component(losses=two)])
    two[1]['name'] = 'soft'
    assert SelfDistiller([component(losses=two)]).components[0].loss_names == (
        'fc.kldivergence',
        'soft',
    )


@pytest.mark.parametrize(
    'components', [[], [component(losses=[])], [{'student_module': 'fc', 'losses': [1]}]]
)
def test_incomplete_components_are_refused(components: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match='SelfDistiller'):
        SelfDistiller(components)


def test_unknown_modules_are_refused_with_a_hint() -> None:
    distiller = SelfDistiller([component(teacher_module='head.unused')])
    with pytest.raises(InputError, match=r"no module 'head.unused'; did you mean 'parts.unused"):
        distiller.check(Network())


def test_a_module_that_did_not_run_is_reported() -> None:
    network, distiller = Network(), SelfDistiller([component()])
    with distiller.teacher(network):
        network(torch.randn(2, 3))
    with pytest.raises(RuntimeError, match='fc did not run as the student'):
        distiller.loss()


def test_outputs_that_are_no_tensors_are_refused() -> None:
    network = nn.Sequential(nn.LSTM(3, 4))
    distiller = SelfDistiller([component(student_module='0', teacher_module='0')])
    with pytest.raises(TypeError, match=r'0 \(LSTM\) puts out a tuple'), distiller.teacher(network):
        network(torch.randn(2, 3))
