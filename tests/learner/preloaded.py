"""What every learner process of the tests imports, once for all of them (`parts.spawn`)."""

import deepspeed  # noqa: F401
from transformers.models.auto import modeling_auto  # noqa: F401
from transformers.models.llama import modeling_llama  # noqa: F401

import tests.learner.parts  # noqa: F401
from mgsrl.learner import worker  # noqa: F401
