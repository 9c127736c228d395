"""All training prompts of one domain: its source, its extra sources, and how they share a step."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace

from mgsrl.config import DomainConfig, SourceConfig
from mgsrl.data.rows import Row
from mgsrl.data.sources import load_rows
from mgsrl.data.templates import PromptTokenizer
from mgsrl.types import Prompt, RowNeeds


def source_weights(name: str, domain: DomainConfig) -> dict[str, float]:
    """The sources of a domain as the mixture knows them, with their weights: `math` for
    `domains.math.source`, `math/web` for `domains.math.extra_sources.web`."""
    extra = {f"{name}/{key}": source.weight for key, source in domain.extra_sources.items()}
    return {name: domain.source.weight, **extra}


def training_prompts(
    templates: PromptTokenizer, name: str, domain: DomainConfig, needs: RowNeeds
) -> dict[str, list[Prompt]]:
    """The prompts by source, keys as of `source_weights`. Raises as `load_rows` does."""
    found = {
        name: load_prompts(
            templates, name, domain, domain.source, needs, key=f"domains.{name}.source"
        )
    }
    for key, source in domain.extra_sources.items():
        prompts = load_prompts(
            templates,
            name,
            domain,
            source,
            needs,
            key=f"domains.{name}.extra_sources.{key}",
            counted_as=f"{name}/{key}",
        )
        # Two sources may number their rows alike.
        found[f"{name}/{key}"] = [replace(prompt, id=f"{key}/{prompt.id}") for prompt in prompts]
    return found


def load_prompts(
    templates: PromptTokenizer,
    name: str,
    domain: DomainConfig,
    source: SourceConfig,
    needs: RowNeeds,
    *,
    key: str,
    counted_as: str | None = None,
) -> list[Prompt]:
    """One source, read, checked and templated; `templates.counts` says what was left out.

    Args:
        key: the configuration key of the source, for messages.
        counted_as: the name under which to count; the default is the domain's.
    """
    templates = templates.for_domain(name, domain.chat_template_kwargs)
    encoded: dict[str, list[int]] = {}

    def accept(row: Row) -> None:
        encoded[row.id] = templates.encode(row.messages)  # the template may refuse it

    rows = load_rows(source, name, key=key, needs=needs, accept=accept)
    counted_as = counted_as or name
    templates.count(counted_as).skipped += rows.num_skipped
    prompts = [templates.prompt(name, row, counted_as, encoded[row.id]) for row in rows]
    return [prompt for prompt in prompts if prompt is not None]


def rows_digest(prompts: Iterable[Prompt]) -> str:
    """What tells rows from others of the same name: over ids, conversations and what rewards are
    given, in their order; not over tokens, which are the template's and the day's. 16 hex digits
    of SHA-256."""
    digest = hashlib.sha256()
    for prompt in prompts:
        row = [prompt.id, prompt.messages, dict(prompt.reference)]
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]
