"""WildChat's part of Tulu 3's preferences: real users' requests, to train chat on."""

from mgsrl.tasks import Split, Task

TASK = Task(
    about="chat: real users' requests, the WildChat part of Tulu 3's preferences",
    reward={"kind": "reward_model"},
    train=Split("allenai/tulu-3-wildchat-if-on-policy-8b", "train", rows=10_792),
    columns={"prompt": "prompt", "id": ""},
    licence="ODC-BY-1.0",
    unverified="the licence is that of the mixture it belongs to",
)
