"""Tokens a second and model FLOP utilisation, out of a run's log."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from closedbook.training.throughput import Throughput, peak_of, throughput

LOG: list[Mapping[str, float]] = [
    {"step": 1, "num_tokens": 1000.0, "seconds": 50.0},
    {"step": 2, "num_tokens": 2000.0, "seconds": 1.0},
    {"step": 3, "num_tokens": 4000.0, "seconds": 2.0},
]


def test_the_first_step_warms_up_and_does_not_count() -> None:
    found = throughput(LOG, 1000, device="a CPU", rollouts=True)
    assert found == Throughput(tokens_per_second=1000.0, seconds_per_step=1.5, utilisation=None)


def test_a_drawn_token_costs_eight_operations_a_weight_and_one_only_trained_on_six() -> None:
    drawn = throughput(LOG, 134_515_008, device="NVIDIA H100 80GB HBM3", rollouts=True)
    trained = throughput(LOG, 134_515_008, device="NVIDIA H100 80GB HBM3", rollouts=False)
    assert drawn.utilisation == pytest.approx(8 * 134_515_008 * 1000 / 989e12)
    assert trained.utilisation == pytest.approx(6 * 134_515_008 * 1000 / 989e12)


@pytest.mark.parametrize(
    ("device", "peak"),
    [("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989e12), ("NVIDIA L4", 121e12), ("NVIDIA L40S", 362e12)],
)
def test_a_device_is_known_by_its_own_name_and_not_by_a_part_of_another(device: str, peak: float) -> None:
    assert peak_of(device) == peak


def test_an_unknown_device_has_no_peak_and_a_log_without_times_no_throughput() -> None:
    assert peak_of("Tharn 9000") is None
    for log in ([], LOG[:1], [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}]):
        assert throughput(log, 1000, device="NVIDIA H100", rollouts=True) == Throughput(None, None, None)
