"""Contract checks for parts that you bring: the ones that our own members are held to.

    from mgsrl.testing import check_surgery_method

    def test_my_method():
        check_surgery_method("mylab/surgery.py:drop")     # or the function itself

Each takes a name as the configuration does, or the object, and raises `ContractError` (an
`AssertionError`) with the property that does not hold. No test framework is needed.
"""

from mgsrl.testing.advantage import check_advantage
from mgsrl.testing.curriculum import check_curriculum
from mgsrl.testing.engine import check_engine
from mgsrl.testing.loss import check_loss
from mgsrl.testing.reward import check_reward
from mgsrl.testing.surgery import check_surgery_method
from mgsrl.testing.task import check_task
from mgsrl.testing.tracker import check_tracker

__all__ = [
    "check_advantage",
    "check_curriculum",
    "check_engine",
    "check_loss",
    "check_reward",
    "check_surgery_method",
    "check_task",
    "check_tracker",
]
