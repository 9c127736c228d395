"""Which machines are missing; that they are waited for is tried by
`tests/scripts/test_two_nodes.py`."""

from mgsrl.cluster.machines import Machines


def test_what_is_missing_has_a_name() -> None:
    before = Machines(("10.0.0.1", "10.0.0.2"), 16.0)
    assert before.lack(before) == []
    assert Machines(("10.0.0.1",), 8.0).lack(before) == ["10.0.0.2"]
    assert Machines(("10.0.0.1", "10.0.0.2"), 12.0).lack(before) == ["4 GPUs"]
    # Another machine took the place of one.
    assert Machines(("10.0.0.1", "10.0.0.3"), 16.0).lack(before) == []
    assert Machines(("10.0.0.1", "10.0.0.2", "10.0.0.3"), 24.0).lack(before) == []
