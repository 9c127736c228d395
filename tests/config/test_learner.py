"""What the learner's configuration says of itself."""

from mgsrl.config.learner import LearnerConfig


def test_a_micro_batch_that_is_given_twice_is_said() -> None:
    assert LearnerConfig(micro_batch_size=4).size_note is None
    assert LearnerConfig(tokens_per_micro_batch=512).size_note is None
    note = LearnerConfig(micro_batch_size=4, tokens_per_micro_batch=512).size_note
    assert note is not None
    assert "learner.micro_batch_size=4 has no effect" in note
