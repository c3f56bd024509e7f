"""Run the models of tests/history/test_model.py and test_stream_model.py on partitions."""

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.history.test_model import Exporters
from tests.history.test_stream_model import Listeners

if TYPE_CHECKING:
    from tests.history.conftest import History


def run(machine: type[RuleBasedStateMachine], **values: Any) -> None:
    """Run a state machine for some seconds."""
    run_state_machine_as_test(
        type("Here", (machine,), values),
        settings=settings(
            max_examples=max(1, settings().max_examples // 10),
            stateful_step_count=25,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_partitions_hold_the_model_of_polls(history: "History") -> None:
    run(Exporters, history=history)


@pytest.mark.parametrize("own_groups_only", [False, True])
def test_partitions_hold_the_model_of_the_stream(history: "History", own_groups_only: bool) -> None:
    run(Listeners, history=history, own_groups_only=own_groups_only)
