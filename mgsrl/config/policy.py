"""The model that is trained, and how prompts are put to it."""

from dataclasses import dataclass

from mgsrl.config.require import one_of

PROMPT_TEMPLATES = ("chat", "prompted")


@dataclass
class PolicyConfig:
    path: str = "pocket"
    """`pocket` (the bundled 1M-parameter model), a local Hugging Face folder or a hub id."""
    prompt_template: str = "chat"
    """`chat`: the tokenizer's own chat template; `prompted`: the paper's preamble for base
    models that asks for `<think> </think>` and `<response> </response>`."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""

    def validate(self) -> None:
        one_of("policy.prompt_template", self.prompt_template, PROMPT_TEMPLATES)
