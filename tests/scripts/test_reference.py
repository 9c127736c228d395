"""docs/keys.md is what the dataclasses say, and they say something of every key."""

from dataclasses import dataclass, field

from mgsrl.config import Config
from mgsrl.config.keys import NAME, all_keys, is_record, optional
from scripts.reference import PAGE, Key, keys_of, page, table


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make reference`"


def test_every_key_is_described() -> None:
    assert [key.name for key in keys_of(Config) if not key.text] == []


def test_every_key_is_listed_once() -> None:
    """As the command line knows them; those of a record that stands in two places once."""
    listed = [key.name for key in keys_of(Config)]
    assert len(set(listed)) == len(listed)
    leaves = {
        name
        for name, kind in all_keys(Config)
        if not is_record(optional(kind) or kind) and not name.endswith(NAME)
    }
    assert set(listed) - {name for name, _ in all_keys(Config)} <= {
        name for name in listed if name.startswith("strategy.phases[N].")
    }
    missing = {name for name in leaves - set(listed) if "{" not in name}
    assert {name.split(".")[2] for name in missing} <= {"heldout", "extra_sources", "reward"}


@dataclass
class Inner:
    size: float = 1e-6
    """Of it,
    in metres."""


@dataclass
class Base:
    kind: str = "a"
    """`a` | `b`."""


@dataclass
class Outer(Base):
    first: Inner = field(default_factory=Inner)
    """One."""
    more: dict[str, Inner] = field(default_factory=dict)
    """By name."""
    names: list[str] = field(default_factory=lambda: ["x"])
    silent: int | None = None


def test_what_a_line_says() -> None:
    assert list(keys_of(Outer)) == [
        Key("kind", "str", '"a"', "`a` | `b`."),
        Key("first", "record", "", "One."),
        Key("first.size", "float", "1e-06", "Of it, in metres."),
        Key("more", "records by name", "", "By name. The keys of `first`."),
        Key("names", "list[str]", '["x"]', ""),
        Key("silent", "int | None", "null", ""),
    ]
    assert table(list(keys_of(Outer)))[2] == r'| `kind` | `str` | `"a"` | `a` \| `b`. |'
