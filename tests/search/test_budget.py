import pytest

from mmprune.errors import InputError
from mmprune.search.budget import Budget, limit_label

FULL = {'macs': 1000, 'params': 200}


def test_limits_are_numbers_or_fractions() -> None:
    assert Budget.of({'macs': 0.5}, FULL) == Budget('0.5', macs=500)
    assert Budget.of({'macs': 1}, FULL) == Budget('1', macs=1000)
    assert Budget.of({'macs': 300}, FULL) == Budget('300', macs=300)
    assert Budget.of({'params': 0.25, 'macs': 700}, FULL) == Budget(
        '700_0.25_params', macs=700, params=50
    )


def test_latency_is_limited_in_milliseconds_or_as_a_fraction() -> None:
    full = {**FULL, 'latency': 12.5}
    assert Budget.of({'latency': 0.5}, full) == Budget('0.5_latency', latency=6.25)
    budget = Budget.of({'latency': 7.5, 'macs': 0.5}, full)
    assert budget == Budget('7.5ms_0.5', macs=500, latency=7.5)
    assert budget.fits({'macs': 500, 'params': 1, 'latency': 7.5})
    assert not budget.fits({'macs': 500, 'params': 1, 'latency': 7.6})
    assert str(budget) == '500 MACs and 7.5 ms'
    with pytest.raises(InputError, match=r'needs a table.*tools/latency\.py'):
        Budget.of({'latency': 0.5}, FULL)


def test_a_budget_is_met_when_no_limit_is_exceeded() -> None:
    budget = Budget.of({'macs': 500, 'params': 100}, FULL)
    assert budget.fits({'macs': 500, 'params': 100})
    assert not budget.fits({'macs': 501, 'params': 1})
    assert not budget.fits({'macs': 1, 'params': 101})
    assert Budget.of({'params': 0.5}, FULL).fits({'macs': 10**9, 'params': 100})


@pytest.mark.parametrize(
    ('limit', 'label'),
    [
        (0.25, '0.25'),
        (1, '1'),
        (300e6, '300M'),
        (1.5e9, '1.5G'),
        (2000, '2K'),
        (1234567, '1234567'),
    ],
)
def test_labels_are_fit_for_file_names(limit: float, label: str) -> None:
    assert limit_label(limit) == label


@pytest.mark.parametrize('limits', [{}, {'flops': 0.5}])
def test_unknown_limits_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(InputError, match='some of the keys macs, params, latency'):
        Budget.of(limits, FULL)


@pytest.mark.parametrize('limit', [0, -0.5])
def test_limits_are_above_zero(limit: float) -> None:
    with pytest.raises(InputError, match='macs must be a number above 0'):
        Budget.of({'macs': limit}, FULL)


def test_a_budget_out_of_reach_names_both_numbers() -> None:
    with pytest.raises(InputError, match=r'100 MACs.*smallest one has 120 MACs'):
        Budget.of({'macs': 0.1}, FULL).check_reachable({'macs': 120, 'params': 9})
