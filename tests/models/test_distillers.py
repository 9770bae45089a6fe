import math
from typing import Any

import pytest
import torch
from torch import nn

from mmprune.errors import InputError
from mmprune.models import ChannelWiseDivergence, KLDivergence, L2Loss, SelfDistiller


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
    with pytest.raises(InputError, match='fc did not run as the student'):
        distiller.loss()


class Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> str:
        return str(x.shape)


def test_outputs_that_are_no_tensors_are_refused() -> None:
    network = nn.Sequential(Nothing())
    distiller = SelfDistiller([component(student_module='0', teacher_module='0')])
    with (
        pytest.raises(InputError, match=r'0 \(Nothing\) puts out a str'),
        distiller.teacher(network),
    ):
        network(torch.randn(2, 3))


class Head(nn.Module):
    """Called for every level, as those of detectors are; the levels are of other sizes."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)
        self.same_conv = self.conv

    def forward(self, levels: list[torch.Tensor]) -> dict[str, list[torch.Tensor]]:
        return {'scores': [self.conv(level) for level in levels]}


LEVELS = [torch.randn(2, 3, size, size) for size in (8, 4, 2, 2, 1)]


def recorded(distiller: SelfDistiller, teacher: nn.Module, student: nn.Module) -> None:
    with distiller.teacher(teacher), torch.no_grad():
        teacher(LEVELS)
    with distiller.student(student):
        student(LEVELS)


@pytest.mark.parametrize('module', ['conv', 'same_conv', ''])
def test_all_calls_and_all_tensors_are_compared(module: str) -> None:
    """The convolution is called five times; the head is called once and puts out five tensors."""
    teacher, student = Head(), Head()
    losses = [
        dict(type='ChannelWiseDivergence', tau=2.0, name='cwd'),
        dict(type='L2Loss', name='l2'),
    ]
    distiller = SelfDistiller(
        [component(student_module=module, teacher_module=module, losses=losses)]
    )
    recorded(distiller, teacher, student)
    pairs = [(student.conv(level), teacher.conv(level)) for level in LEVELS]
    by_hand = {
        'cwd_loss': torch.stack([ChannelWiseDivergence(2.0)(*pair) for pair in pairs]).sum(),
        'l2_loss': torch.stack([(a - b).square().mean() for a, b in pairs]).sum(),
    }
    torch.testing.assert_close(distiller.loss(), by_hand)
    # One after the other: the records of a student are not those of the one before.
    with distiller.student(student):
        student(LEVELS)
    torch.testing.assert_close(distiller.loss(), by_hand)


def test_a_module_that_runs_more_often_on_one_side_is_refused() -> None:
    distiller, teacher, student = (
        SelfDistiller([component(student_module='conv', teacher_module='conv')]),
        Head(),
        Head(),
    )
    with distiller.teacher(teacher):
        teacher(LEVELS[:3])
    with distiller.student(student):
        student(LEVELS)
    with pytest.raises(InputError, match='conv put out 5 tensors as the student, conv 3 as the t'):
        distiller.loss()


def test_outputs_without_a_gradient_are_refused() -> None:
    distiller = SelfDistiller([component(student_module='conv', teacher_module='conv')])
    recorded(distiller, Head(), Head().requires_grad_(False))
    with pytest.raises(InputError, match='the outputs of conv carry no gradient: it is frozen'):
        distiller.loss()
    with torch.no_grad():
        assert distiller.loss()


def test_other_widths_are_left_out_by_name_or_compared_where_both_have_channels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        'mmprune.models.distillers.print_log', lambda message, *args: told.append(message)
    )
    losses = [dict(type='L2Loss', name='l2')]
    distiller = SelfDistiller(
        [component(student_module='conv', teacher_module='conv', losses=losses)]
    )
    teacher, student = Head(6), Head(3)
    for _ in range(2):
        recorded(distiller, teacher, student)
        assert distiller.differ()
        with pytest.raises(InputError, match='nothing can be compared: conv gives'):
            distiller.loss()
    assert told == [
        'SelfDistiller leaves out what it cannot compare: conv gives (3, 8, 8) per sample as the '
        'student, conv (6, 8, 8) as the teacher.'
    ]
    index = torch.tensor([5, 0, 2])
    kept = [{1: index}, None, {1: index}, {1: index}, {1: index}]
    found = distiller.loss({'conv': kept})['l2_loss']
    by_hand = [
        (student.conv(level) - teacher.conv(level)[:, index]).square().mean()
        for number, level in enumerate(LEVELS)
        if number != 1
    ]
    torch.testing.assert_close(found, torch.stack(by_hand).sum())


def test_channel_wise_divergence_by_hand() -> None:
    # Of two channels the first differs: (3/4, 1/4) over two positions beside (1/2, 1/2).
    teacher = torch.tensor([[[math.log(3.0), 0.0], [1.0, 1.0]]])
    student = torch.zeros(1, 2, 2)
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    loss = ChannelWiseDivergence(loss_weight=2.0)
    assert float(loss(student, teacher)) == pytest.approx(2 * expected)
    assert float(ChannelWiseDivergence(tau=2.0)(student, 2 * teacher)) == pytest.approx(
        4 * expected
    )
    # An average over samples; shifts of a channel do not matter, and positions may have any shape.
    both = torch.cat([teacher, torch.tensor([[[5.0, 5.0], [0.0, 0.0]]])])
    assert float(loss(torch.zeros(2, 2, 2), both)) == pytest.approx(expected)
    image = teacher.reshape(1, 2, 1, 2)
    torch.testing.assert_close(loss(student.reshape(image.shape), image), loss(student, teacher))
    with pytest.raises(
        InputError, match=r'positions, as in \(N, C, H, W\), but was given \(2, 5\)'
    ):
        loss(torch.zeros(2, 5), torch.zeros(2, 5))
    with pytest.raises(InputError, match='tau must be above 0, got -1'):
        ChannelWiseDivergence(tau=-1)


def test_l2_loss_by_hand() -> None:
    student = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.tensor([[3.0, -1.0]], requires_grad=True)
    loss = L2Loss(loss_weight=2.0)(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == 2 * (4 + 9) / 2
    assert L2Loss(normalise=True)(student, teacher).item() == pytest.approx(13 / 10)
    assert float(L2Loss(normalise=True)(torch.zeros(2), torch.zeros(2))) == 0
    loss.backward()
    assert student.grad is not None
    assert teacher.grad is None
