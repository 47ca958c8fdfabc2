"""The recipe: a strict YAML file that says what to compute from what, where."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import yaml
from pydantic import (
    AnyHttpUrl,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializationInfo,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from atomlake import clusters, descriptors
from atomlake.clusters.base import Cluster
from atomlake.clusters.local import Local
from atomlake.descriptors.base import Descriptor, Gradients
from atomlake.errors import RecipeError, without_passwords
from atomlake.sources.base import Guard, Source

if TYPE_CHECKING:
    from apscheduler.triggers.cron import CronTrigger

#: Collections within collections of a recipe; no key lies half as deep.
MAX_DEPTH = 30

_STRICT = ConfigDict(frozen=True, extra="forbid")


class GradientRequest(BaseModel):
    """Which gradients to store beside the features."""

    model_config = _STRICT

    positions: Literal["none", "summed", "pairs"] = Field(
        default="none", description="By positions: a row per pair, or summed over centres."
    )
    strain: bool = Field(default=False, description="By strain.")


class DescriptorEntry(BaseModel):
    """One entry of a recipe's ``descriptors``: its kind, what to store, and its parameters."""

    model_config = _STRICT

    kind: str = Field(description="Registered descriptor.")
    preset: str | None = Field(default=None, description="Parameter set of the kind to start from.")
    gradients: GradientRequest = Field(
        default=GradientRequest(),
        description="none, summed or pairs (with strain), or positions and strain apart.",
    )
    sources: tuple[str, ...] | None = Field(
        default=None, description="Names of the sources it is computed for; all if not given."
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Parameters of the kind; species: scan takes what the sources hold.",
    )

    @field_validator("gradients", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if value in ("none", "summed", "pairs"):
            return {"positions": value, "strain": value != "none"}
        return value

    @property
    def wanted(self) -> Gradients:
        """The gradients to compute."""
        return Gradients(self.gradients.positions, self.gradients.strain)

    @property
    def scans_species(self) -> bool:
        """Whether the species list is what the sources hold."""
        return self.parameters.get("species") == "scan"

    def build(self, scanned: Sequence[str] = ("H",)) -> Descriptor:
        """Return the descriptor, with ``scanned`` in place of ``species: scan``."""
        kind = descriptors.get(self.kind)
        parameters = dict(self.parameters)
        if self.scans_species:
            parameters["species"] = tuple(scanned)
        if self.preset is not None:
            return kind.preset(self.preset, **parameters)
        return kind.model_validate(parameters)

    @model_validator(mode="after")
    def _known_and_valid(self) -> DescriptorEntry:
        if self.kind not in descriptors.names():
            hint = _suggestion(self.kind, descriptors.names())
            raise ValueError(f"no descriptor is called {self.kind!r}{hint}")
        names = [
            g for g in ("positions", "strain") if getattr(self.gradients, g) not in (False, "none")
        ]
        self.build().wanted(names, "pairs")
        return self


class Limits(BaseModel):
    """What is refused, and what is set aside, unless the recipe raises the limit."""

    model_config = _STRICT

    max_neighbours: PositiveInt = Field(
        default=2000, description="A structure with an atom of more neighbours is set aside."
    )
    max_features: PositiveInt = Field(
        default=50_000, description="A descriptor with more features is refused by the plan."
    )
    max_nbytes: ByteSize = Field(
        default=ByteSize(10**12), description="A run that would write more is refused by the plan."
    )
    seconds_per_structure: PositiveFloat = Field(
        default=Guard().seconds,
        description="Reading a structure through ase may take so long; then it is set aside.",
    )
    reader_memory: ByteSize = Field(
        default=ByteSize(Guard().nbytes),
        description="Reading a file through ase may take so much memory; then it is set aside.",
    )

    @property
    def guard(self) -> Guard:
        """What reading through ase may take."""
        return Guard(self.seconds_per_structure, int(self.reader_memory))


class PartSize(BaseModel):
    """How large the units of work are; a part holds whole structures, at least one."""

    model_config = _STRICT

    nbytes: ByteSize = Field(default=ByteSize(768 * 10**6), description="Arrays of one part.")
    memory: ByteSize = Field(
        default=ByteSize(512 * 10**6), description="Structures and neighbour lists of one part."
    )
    seconds: PositiveFloat = Field(default=8.0, description="Estimated time on one core.")
    structures: PositiveInt = Field(default=20_000, description="Structures of one part.")


class Notification(BaseModel):
    """Who is told that a scheduled run failed; the report is JSON.

    Both may hold tokens, so the recipe that the catalogue keeps is without them.
    """

    model_config = _STRICT

    command: str | None = Field(
        default=None,
        exclude=True,
        repr=False,
        description="Shell command that gets the report on its standard input.",
    )
    webhook: AnyHttpUrl | None = Field(
        default=None, exclude=True, repr=False, description="URL that the report is sent to."
    )


class Schedule(BaseModel):
    """When ``atomlake schedule`` runs a recipe, and what it does about failures."""

    model_config = _STRICT

    cron: str = Field(description='Five fields: "0 2 * * *" is every night at two.')
    timezone: str | None = Field(default=None, description="Such as Europe/Berlin; this machine's.")
    retries: NonNegativeInt = Field(default=3, description="How often a failed run is repeated.")
    back_off: PositiveFloat = Field(
        default=60.0, description="Seconds before the first repetition; doubled each time."
    )
    notify: Notification = Notification()

    @model_validator(mode="after")
    def _understood(self) -> Schedule:
        self.trigger()
        return self

    def trigger(self) -> CronTrigger:
        """Return when it fires."""
        from apscheduler.triggers.cron import CronTrigger

        try:
            return CronTrigger.from_crontab(self.cron, timezone=self.timezone)
        except (ValueError, LookupError) as problem:
            raise ValueError(
                f"{self.cron!r} (timezone {self.timezone}) is no schedule: {problem}"
            ) from problem


class Checks(BaseModel):
    """What ``atomlake check`` looks at, after every scheduled run and when asked."""

    model_config = _STRICT

    sample: NonNegativeInt = Field(
        default=10, description="Structures that are computed again and compared."
    )
    largest_drift: PositiveFloat | None = Field(
        default=5.0,
        description="How many standard deviations the mean of a feature may move between what is "
        "new and what was there; null to not look.",
    )


class Recipe(BaseModel):
    """Everything a run needs to know. Unknown keys are refused."""

    model_config = _STRICT

    lake: str = Field(description="Folder or s3:// URL of the lake; made by the first run.")
    sources: tuple[Source, ...] = Field(min_length=1, description="Databases of structures.")
    descriptors: tuple[DescriptorEntry, ...] = Field(
        default=(), description="What to compute of every structure."
    )
    cluster: Cluster = Field(default=Local(), description="Where the work runs.")
    limits: Limits = Limits()
    parts: PartSize = PartSize()
    durable: bool = Field(
        default=False,
        description="Wait for the disk before publishing: what is in the lake survives power cuts.",
    )
    schedule: Schedule | None = Field(default=None, description="When it runs by itself.")
    checks: Checks = Checks()

    @field_validator("schedule", mode="before")
    @classmethod
    def _cron_alone(cls, value: Any) -> Any:
        return {"cron": value} if isinstance(value, str) else value

    @field_validator("cluster", mode="before")
    @classmethod
    def _kind_of_cluster(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        settings = dict(value)
        kind = settings.pop("kind", "local")
        if kind not in clusters.names():
            raise ValueError(f"no cluster kind is called {kind!r}; there are {clusters.names()}")
        return clusters.get(kind).model_validate(settings)

    @field_serializer("cluster")
    def _settings_of_cluster(self, cluster: Cluster, info: SerializationInfo) -> dict[str, Any]:
        settings = cluster.model_dump(mode=info.mode, exclude_defaults=info.exclude_defaults)
        return {"kind": cluster.kind, **settings}

    @model_validator(mode="after")
    def _names_agree(self) -> Recipe:
        labels = [source.label for source in self.sources]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two sources are called {label!r}; give each a name of its own")
        for entry in self.descriptors:
            for name in entry.sources or ():
                if name not in labels:
                    raise ValueError(
                        f"descriptor {entry.kind!r} asks for source {name!r}, "
                        f"and the recipe has {labels}"
                    )
        return self

    def entries_for(self, source: Source) -> list[DescriptorEntry]:
        """Descriptor entries that apply to a source."""
        return [e for e in self.descriptors if e.sources is None or source.label in e.sources]

    @property
    def recipe_hash(self) -> str:
        """Hash of what decides the content of the lake: all but where and when it runs."""
        content = self.model_dump(mode="json", exclude={"cluster", "schedule", "checks", "durable"})
        return hashlib.blake2b(
            json.dumps(content, sort_keys=True).encode(), digest_size=8
        ).hexdigest()


class Problem(NamedTuple):
    """One thing that is wrong with a recipe."""

    line: int
    where: str
    message: str


def load(path: str | Path) -> Recipe:
    """Read and check a recipe.

    Raises
    ------
    RecipeError
        If the file cannot be read or anything in it is wrong; the message lists every
        problem with its line and what to do.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise RecipeError(f"{path}: the recipe cannot be read: {problem}") from problem
    return parse(text, str(path))


def parse(text: str, name: str = "recipe") -> Recipe:
    """As :func:`load`, for a text; ``name`` stands for the file in messages."""
    try:
        for event, depth in _nested(yaml.parse(text, Loader=yaml.SafeLoader)):
            line = f"{name}:{event.start_mark.line + 1 if event.start_mark else 1}"
            if isinstance(event, yaml.AliasEvent):
                raise RecipeError(f"{line}: a recipe has no aliases (*name); write the value out")
            if depth > MAX_DEPTH:
                raise RecipeError(f"{line}: brackets or blocks are nested {depth} deep")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except ValueError as problem:
        raise RecipeError(f"{name}: a date or a number is impossible: {problem}") from problem
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        message = without_passwords(f"not valid YAML: {problem}")
        raise RecipeError(f"{name}{line}: {message}") from None
    if not isinstance(content, dict):
        raise RecipeError(
            f"{name}: a recipe is a mapping with the keys {list(Recipe.model_fields)}"
        )
    lines = dict(_lines(node))
    problems = [
        Problem(_line(lines, key), _dotted(key), "the key is given twice; keep one")
        for key in _duplicates(node)
    ]
    recipe = None
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        problems += list(_explain(error, content, lines))
    if problems or recipe is None:
        raise RecipeError(
            "\n".join(
                f"{name}:{p.line}: {p.where + ': ' if p.where else ''}{p.message}"
                for p in sorted(problems)
            )
        )
    return recipe


def _nested(events: Iterator[yaml.Event]) -> Iterator[tuple[yaml.Event, int]]:
    """Yield events with the number of collections that they are in."""
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        yield event, depth


# ----- From pydantic's errors to lines and fixes

Key = tuple[str | int, ...]


def _lines(node: yaml.Node | None, key: Key = ()) -> Iterator[tuple[Key, int]]:
    if node is None:
        return
    yield key, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _lines(value, (*key, name.value))
            yield (*key, name.value), name.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _lines(value, (*key, i))


def _duplicates(node: yaml.Node | None, key: Key = ()) -> Iterator[Key]:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for name, value in node.value:
            if name.value in seen:
                yield (*key, name.value)
            seen.add(name.value)
            yield from _duplicates(value, (*key, name.value))
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _duplicates(value, (*key, i))


def _line(lines: dict[Key, int], key: Key) -> int:
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)


def _dotted(key: Key) -> str:
    text = ""
    for step in key:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _explain(
    error: ValidationError, content: dict[str, Any], lines: dict[Key, int]
) -> Iterator[Problem]:
    items = error.errors()
    for item in items:
        key, known = _place(item["loc"], content)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "too_short" and any(
            other["loc"][: len(item["loc"])] == item["loc"] for other in items if other is not item
        ):
            continue  # pydantic counts only the valid entries; the invalid ones are named
        if item["type"] == "extra_forbidden":
            message = f"unknown key{_suggestion(str(key[-1]), known)}"
        elif item["type"] == "missing":
            message = "this key is required"
        elif item["type"] != "value_error":
            message = f"{message}, but it is {item['input']!r}"
        yield Problem(_line(lines, key), _dotted(key), without_passwords(message))


def _place(location: Key, content: dict[str, Any]) -> tuple[Key, list[str]]:
    """Where in the file a problem is, and the keys that are known there.

    The parameters of a descriptor and the settings of a cluster are checked by models that
    the file chooses by ``kind``, so pydantic's location says nothing about these.
    """
    match location:
        case ("descriptors", int(i), str(name), *rest) if name not in DescriptorEntry.model_fields:
            kind = content["descriptors"][i].get("kind")
            if kind not in descriptors.names():
                return location, list(DescriptorEntry.model_fields)
            key = (name, *rest)
            return ("descriptors", i, "parameters", *key), _fields_at(descriptors.get(kind), key)
        case ("cluster", *rest) if isinstance(content["cluster"], dict):
            kind = content["cluster"].get("kind", "local")
            model_of_cluster = clusters.get(kind) if kind in clusters.names() else Cluster
            return location, _fields_at(model_of_cluster, rest)
    return location, _fields_at(Recipe, location)


def _fields_at(model: type[BaseModel], key: Sequence[str | int]) -> list[str]:
    """Names of the fields of the model that holds the last step of a location."""
    current: Any = model
    for step in key[:-1]:
        if isinstance(step, int) or not hasattr(current, "model_fields"):
            continue
        field = current.model_fields.get(step)
        if field is None:
            return []
        current = _model_in(field.annotation) or current
    return list(current.model_fields) if hasattr(current, "model_fields") else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {sorted(known)}" if known else ""
