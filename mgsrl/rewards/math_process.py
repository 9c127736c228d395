"""The process in which untrusted mathematics is parsed and compared; see `math_verifier.py`.

A request is `{"gold": str, "text": str, "prompt": str}`, its reply what `math_judge.judge` returns
or `{"error": str}`. Beside that and `child_serve.py`, which limits time and memory, it imports
nothing of mgsrl: it starts in half a second and stays small.

math-verify's own time-outs are off: they use the same signal as the process's timer and cannot
interrupt a long C call.
"""

from mgsrl.rewards.child_serve import serve
from mgsrl.rewards.math_judge import judge


def main() -> None:
    """Serve. The first parse builds the grammar, the first proof imports the algebra."""
    serve(
        lambda request: judge(request["gold"], request["text"], request["prompt"]),
        lambda: judge("x^2+2x+1", r"\boxed{(x+1)^2}"),
    )
