"""One side of `bench_vs_trl.py`: a training that waits before every step until it is told to go.

    python bench_vs_trl_side.py mgsrl|trl FOLDER GO REPORTS

FOLDER holds the setting, prompts and model; GO and REPORTS are pipes. When GO is closed, the
training is over.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

DOMAINS = ("math", "chat", "instruction_following")


class Gate:
    """Says that the last step is done and waits for the next; `facts` go along."""

    def __init__(self, go: int, reports: int) -> None:
        self._go, self._reports = go, reports
        self.facts: dict[str, Any] = {}
        for end in (go, reports):
            os.set_inheritable(end, False)

    def __call__(self) -> None:
        os.write(self._reports, json.dumps(self.facts).encode() + b"\n")
        if not os.read(self._go, 1):
            raise KeyboardInterrupt


def train_ours(setting: dict[str, Any], work: Path, gate: Gate) -> None:
    import mgsrl
    from mgsrl.config.compose import compose_config
    from mgsrl.config.data import DomainConfig, SourceConfig
    from mgsrl.config.reward import RewardConfig
    from mgsrl.training.run import Run

    config = compose_config(
        [
            f"+experiment={setting['experiment']}",
            f"policy.path={work / 'model'}",
            f"run.dir={work / 'run'}",
            f"train.num_steps={setting['steps'] + 1}",
            f"algo.kl_coef={setting['kl']}",
            f"algo.samples_per_prompt={setting['samples']}",
            "algo.prompts_per_domain=1",
            f"rollout.max_new_tokens={setting['new_tokens']}",
            "rollout.temperature=1.0",
            f"learner.optimizer.lr={setting['lr']}",
            "learner.optimizer.warmup_steps=0",
            f"data.max_prompt_tokens={setting['max_prompt_tokens']}",
            "data.overlong=error",
            "data.shuffle=false",
            "evaluate.prompts_per_domain=0",
            "checkpoint.every=0",
            "trackers.wandb=disabled",
            *setting["overrides"],
        ]
    )
    config.domains = {
        name: DomainConfig(
            source=SourceConfig(kind="file", path=str(work / f"{name}.jsonl")),
            reward=RewardConfig.of(
                "function",
                function=f"{work / 'rewards.py'}:score",
                missing_tag="whole_response",
            ),
        )
        for name in DOMAINS
    }
    enter = Run.enter_phase

    def gated(run: Run) -> Any:
        gate()
        return enter(run)

    Run.enter_phase = gated  # type: ignore[method-assign]  # where a step begins
    mgsrl.train(config)


def train_trl(setting: dict[str, Any], work: Path, gate: Gate) -> None:
    from datasets import Dataset
    from rewards import score  # of the folder
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    rows = [list(map(json.loads, (work / f"{name}.jsonl").open())) for name in DOMAINS]
    samples, batch = setting["samples"], setting["trl_batch"]

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        return [score(completion[0]["content"]) for completion in completions]

    class Gated(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            gate()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if length := (logs or {}).get("completions/mean_length"):
                gate.facts["response_tokens_per_step"] = 3 * samples * length

    trainer = GRPOTrainer(
        model=str(work / "model"),
        reward_funcs=reward,
        train_dataset=Dataset.from_list([row for step in zip(*rows, strict=True) for row in step]),
        callbacks=[Gated()],
        args=GRPOConfig(
            output_dir=str(work / "trl"),
            model_init_kwargs={"dtype": "float32"},
            use_cpu=True,
            bf16=False,
            # The default; it saves memory and costs a second forward pass.
            gradient_checkpointing=False,
            num_generations=samples,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=3 * samples // batch,
            max_completion_length=setting["new_tokens"],
            temperature=1.0,
            beta=setting["kl"],
            learning_rate=setting["lr"],
            lr_scheduler_type="constant",
            max_steps=setting["steps"] + 1,
            shuffle_dataset=False,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        ),
    )
    trainer.train()


def main(side: str, folder: str, go: str, reports: str) -> None:
    work = Path(folder)
    sys.path.insert(0, str(work))
    setting = json.loads((work / f"{side}.json").read_text())
    train = {"mgsrl": train_ours, "trl": train_trl}[side]
    try:
        train(setting, work, Gate(int(go), int(reports)))
    except KeyboardInterrupt:
        print("the last step is done")


if __name__ == "__main__":
    main(*sys.argv[1:])
