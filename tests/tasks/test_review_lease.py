"""A lease that a leader could not keep."""

import pytest

from trio_raft import ConfigurationError, Timeouts


def test_lease_shorter_than_three_heartbeats() -> None:
    """Heartbeats may be two intervals apart: a shorter lease is refused, since every leader would depose itself
    (E9).
    """
    Timeouts(heartbeat_timeout=0.7, leader_lease_timeout=0.21)
    with pytest.raises(ConfigurationError, match="less than three heartbeats") as caught:
        Timeouts(heartbeat_timeout=1.0, leader_lease_timeout=0.29)
    assert caught.value.key == "timeouts.leader_lease_timeout"
