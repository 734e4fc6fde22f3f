"""Options -> reference pages, JSON schema, example file and the text of a command.

Everything is made from the annotations that the loader reads, so a page cannot tell
of an option that does not exist, nor leave one out.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import Any

from tyk_pump import pumps, secrets
from tyk_pump.config import environment
from tyk_pump.config.fields import REQUIRED, Field, fields_of
from tyk_pump.config.options import Options, Secret
from tyk_pump.config.root import PumpFrame, RedisOptions, RootOptions
from tyk_pump.cursors import UPTIME

_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Secret: "secret text",
}
_GENERATED = "<!-- Written by scripts/build_reference.py; edit the options instead. -->"


def pump_types() -> list[str]:
    """Return the types of this version, in order."""
    return sorted(pumps.REGISTRY)


def uptime_types() -> list[str]:
    """Return what `uptime_pump_config` may stand for, in order."""
    return sorted(pumps.UPTIME)


def options_of(kind: str) -> type[Options]:
    """Return the options of a pump type."""
    found: type[Options] = pumps.load(kind).options_type
    return found


def walk(options: type[Options], path: str = "") -> Iterator[tuple[str, Field]]:
    """Yield (dotted key, field) of all options, also inside others."""
    for field in fields_of(options):
        key = f"{path}{field.key}"
        nested, items = field.nested(), field.items()
        if nested is not None:
            yield from walk(nested, f"{key}.")
            continue
        yield key, field
        if items is not None:
            mark = "[]" if items[0] is list else ".*"
            yield from walk(items[1], f"{key}{mark}.")


def variables(
    options: type[Options], prefix: str, path: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, variable) of all options that a variable can set."""
    for field in fields_of(options):
        key, name = f"{path}{field.key}", f"{prefix}_{field.env}"
        nested = field.nested()
        if nested is not None:
            yield from variables(nested, name, f"{key}.")
        elif field.items() is None and field.base != dict[str, Any]:
            yield key, name
        elif field.base != dict[str, Any] and prefix.endswith("_META"):
            # The options of a pump alone: a list of options is JSON in a variable.
            yield key, name


# Reference pages


def pages() -> dict[str, str]:
    """Return file name -> text of the reference pages, below docs/reference."""
    found = {"configuration.md": _configuration(), "environment.md": _environment()}
    for kind in (*pump_types(), *uptime_types()):
        found[f"pumps/{kind}.md"] = _pump(kind)
    return found


def _configuration() -> str:
    parts = [
        "# Configuration",
        _GENERATED,
        "The file is JSON. Keys may be written in any case; of a key written twice the "
        "last one counts. An unknown key is a warning that names the nearest known, "
        "and refused by `tyk-pump check` and `tyk-pump start --strict`. A value of the "
        "wrong type is refused with its place. Durations are seconds, with fractions, "
        'or texts such as `"1m30s"`.',
        "The editor that you write the file with can check it against "
        "`conf/pump.schema.json`.",
        "## The file",
        _table(RootOptions, skip=("analytics_storage_config",)),
        "`pumps` is an object: the pump's name, then what the pump is to do.",
        "## analytics_storage_config",
        _table(RedisOptions),
        "## uptime_pump_config",
        "One object holds `uptime_type` and the options of "
        + " or ".join(f"[{kind}](pumps/{kind}.md)" for kind in uptime_types())
        + ". With `uptime_type` `sql` these are SQL's, and Mongo's without it. The "
        f"pump is called `{UPTIME}`, in small letters, where pumps are named.",
        "## kv.stores.*name*",
        _STORES,
        *_stores(),
        "## pumps.*name*",
        _table(PumpFrame),
        "The options in `meta` depend on the type: "
        + ", ".join(f"[{kind}](pumps/{kind}.md)" for kind in pump_types())
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


_STORES = """\
Any text of this file may refer to a store, in pumps, too, and any text that a variable
sets, except those that start with `TYK_PMP_REDIS_` or `TYK_PMP_TEMPORAL_STORAGE_`:

- `kv://STORE/PATH` is the whole text, `kv://STORE/PATH#POINTER` a part of it;
- `$kv{STORE:PATH}` or `$kv{STORE:PATH#POINTER}` stands anywhere in a text, repeatedly.

The pointer is a JSON pointer into a secret that is JSON; its first `/` may be left out.
A text in it is taken as it is, all else as JSON. What a store gives is not looked into.

References are looked up at start and on `tyk-pump reload`, after variables were laid
over the file; a pump whose texts have changed is replaced, no other. A reference that
leads nowhere keeps its pump from starting, or, outside the pumps, the whole program;
records wait meanwhile. While a store does not answer, its pump is tried again by
itself, and one that runs keeps the texts that it has. `tyk-pump check` says what was
looked up; `check --offline` asks stores of type `env`, `inline` and `file` only. No
text of a store is shown anywhere, provided that it has at least four characters.

`TYK_PMP_KV_STORES` is a JSON object of stores; each takes the place of the file's store
of that name. The `config` of a store may itself refer to stores of type `env`, `inline`
and `file`. `pip install 'tyk-pump[secrets]'` brings the drivers of the others."""


def _stores() -> Iterator[str]:
    for kind in secrets.REGISTRY:
        options = secrets.load(kind).options_type
        yield f"### {kind}"
        yield _prose(options.__doc__)
        yield _table(options)


def _environment() -> str:
    storage = dict(variables(RedisOptions, environment.STORAGE_PREFIXES[0]))
    common = dict(variables(PumpFrame, f"{environment.PUMPS}_<NAME>"))
    root = {
        key: name
        for key, name in variables(RootOptions, environment.PREFIX)
        if not key.startswith("analytics_storage_config.")
    }
    forms = " or ".join(f"`{prefix}_`" for prefix in environment.STORAGE_PREFIXES[1:])
    parts = [
        "# Environment",
        _GENERATED,
        "A variable wins over the file. Texts are taken as they are; lists are split "
        "at commas and not trimmed; whole numbers may be `0x10`, `0b11`, `0o7` or "
        "`1_000`, and `010` is eight; true or false is one of `1 t T TRUE true True "
        "0 f F FALSE false False`. Each bad variable is refused by its name. A name "
        "that starts with `TYK_PMP_` and means nothing is a warning.",
        "`TYK_PMP_OMITCONFIGFILE=true` reads no file at all.",
        "## Outside the pumps",
        _names(root),
        "## Redis",
        f"The same names may start with {forms}; a later form wins over an earlier.",
        _names(storage),
        "## Every pump",
        "`<NAME>` is the pump's name in capitals. A pump that the file does not have "
        "is made when its name is a type, or when `TYK_PMP_PUMPS_<NAME>_TYPE` names "
        "one. Names may hold underscores; of several that fit the longest is meant.",
        _names(common),
        "## Each type's own options",
        "Below `TYK_PMP_PUMPS_<NAME>_META_`. While no variable names the pump itself, "
        "`meta_env_prefix` of its `meta` says what they start with, or else they "
        "start as shown here, for all pumps of the type.",
    ]
    for kind in pump_types():
        own = dict(variables(options_of(kind), environment.meta_prefix(kind)))
        if own:
            parts += [f"### {kind}", _names(own)]
    parts += [
        "## Uptime reports",
        f"`{environment.UPTIME}_UPTIMETYPE` is `uptime_type`. Where nothing names "
        "`mongo_url`, Mongo's may start with "
        f"`{environment.LEGACY_PREFIXES['mongo']}_`.",
    ]
    for kind in uptime_types():
        own = dict(variables(options_of(kind), environment.UPTIME))
        parts += [f"### {kind}", _names(own)]
    parts += [
        "## Others",
        "| variable | effect |\n| --- | --- |\n"
        "| `TYK_LOGLEVEL` | wins over `log_level`; not error, warn or debug: info |\n"
        "| `TYK_LOGFORMAT` | wins over `log_format` |\n"
        "| `TYK_PMP_KV_STORES` | stores of secrets as a JSON object; each takes the "
        "place of `kv.stores` under its name |\n"
        "| `TYK_PMP_BUILDDEMODATA` | an organisation: write made-up records |\n"
        + "\n".join(
            f"| `{field.variable}` | `{key}` of {kind}, where nothing else says it |"
            for kind in pump_types()
            for key, field in walk(options_of(kind))
            if field.variable
        )
        + "\n"
        + "\n".join(
            f"| `{field.variable}` | `{key}` of {kind}, where nothing else says it |"
            for kind in secrets.REGISTRY
            for key, field in walk(secrets.load(kind).options_type)
            if field.variable
        )
        + "\n"
        + "\n".join(
            f"| `{name}` | `{key}` of all pumps that have it, over the file |"
            for key, name in sorted(_bare())
        ),
        "## Old names",
        "`PMP_MONGO_`, `PMP_MONGOSEL_` and `PMP_MONGOAGG_` before the last part of a "
        "name set the options of `mongo`, `mongo-pump-selective` and "
        "`mongo-pump-aggregate` and win over all others, with a warning.",
    ]
    return "\n\n".join(parts) + "\n"


def _bare() -> set[tuple[str, str]]:
    """Return key and variable of the options that one variable sets for all pumps."""
    return {
        (key, field.bare)
        for kind in pump_types()
        for key, field in walk(options_of(kind))
        if field.bare
    }


def _pump(kind: str) -> str:
    pump = pumps.load(kind)
    options = options_of(kind)
    parts = [f"# {kind}", _GENERATED, _prose(pump.__doc__)]
    parts += ["## Guarantee", pump.guarantee]
    if pump.differences:
        listed = "\n".join(f"- {each}" for each in pump.differences)
        parts += ["## Beside the reference's pump", listed]
    section = "uptime_pump_config" if kind in pumps.UPTIME else "meta"
    parts += [f"## {section}", _prose(options.__doc__)]
    if fields_of(options):
        parts.append(_table(options))
    example: dict[str, Any] = {
        "pumps": {kind: {"type": kind, "meta": _sample(options)}}
    }
    if kind in pumps.UPTIME:
        example = {"uptime_pump_config": _uptime_sample(kind)}
    parts += ["## Example", f"```json\n{json.dumps(example, indent=2)}\n```"]
    return "\n\n".join(parts) + "\n"


def _prose(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return "\n".join(line.strip() for line in lines)


def _table(options: type[Options], skip: tuple[str, ...] = ()) -> str:
    rows = ["| key | type | default | |", "| --- | --- | --- | --- |"]
    for key, field in walk(options):
        if key.split(".")[0] not in skip:
            cells = (f"`{key}`", type_name(field), _default(field), _sentence(field))
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _names(found: dict[str, str]) -> str:
    rows = ["| variable | option |", "| --- | --- |"]
    rows += [f"| `{name}` | `{key}` |" for key, name in found.items()]
    return "\n".join(rows)


def type_name(field: Field) -> str:
    """Return an option's type in words."""
    origin, args = typing.get_origin(field.base), typing.get_args(field.base)
    if field.seconds:
        return "seconds"
    if origin is list:
        return f"list of {_NAMES.get(args[0], 'objects')}"
    if origin is dict:
        return f"object of {_NAMES.get(args[1], 'anything')}"
    return _NAMES.get(field.base, "anything")


def _default(field: Field) -> str:
    if field.default is REQUIRED:
        return "required"
    return f"`{json.dumps(_plain(field.default))}`"


def _sentence(field: Field) -> str:
    text = field.text
    if field.choices:
        text += " One of " + ", ".join(f"`{one}`" for one in field.choices) + "."
    if field.aliases:
        text += " Also " + ", ".join(f"`{one}`" for one in field.aliases) + "."
    if field.limits:
        limits = (f"{sign} {limit:g}" for sign, limit in field.limits)
        text += f" ({', '.join(limits)})"
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return ""
    # 10.0 seconds are shown as people write them.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# Example file


def example() -> str:
    """Return a configuration with every option of this version at its default."""
    root = _sample(RootOptions)
    root["analytics_storage_config"] |= {"host": "localhost", "port": 6379}
    root["uptime_pump_config"] = _uptime_sample(uptime_types()[0])
    frame = _sample(PumpFrame)
    root["pumps"] = {
        kind: frame | {"type": kind, "name": kind, "meta": _sample(options_of(kind))}
        for kind in pump_types()
    }
    return json.dumps(root, indent=2) + "\n"


def _uptime_sample(kind: str) -> dict[str, Any]:
    return {"uptime_type": kind.removeprefix("uptime-")} | _sample(options_of(kind))


def _sample(options: type[Options]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields_of(options):
        nested, items = field.nested(), field.items()
        if field.example is not None:
            found[field.key] = field.example
        elif nested is not None:
            found[field.key] = _sample(nested)
        elif items is not None:
            inner = _sample(items[1])
            found[field.key] = [inner] if items[0] is list else {"name": inner}
        elif field.default is REQUIRED:
            found[field.key] = f"<{field.key}>" if field.base in (str, Secret) else 0
        else:
            found[field.key] = _plain(field.default)
    return found


# JSON schema


def schema() -> dict[str, Any]:
    """Return the JSON schema that an editor checks a configuration with."""
    found = _object(RootOptions)
    found["properties"]["uptime_pump_config"] |= _uptime()
    stores = found["properties"]["kv"]["properties"]["stores"]
    stores["additionalProperties"]["allOf"] = [
        {
            "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
            "then": {
                "properties": {"config": _object(secrets.load(kind).options_type)}
            },
        }
        for kind in secrets.REGISTRY
    ]
    found["properties"]["pumps"] = {
        "description": "The pumps, each under its name.",
        "type": "object",
        "additionalProperties": _any_pump(),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pump.conf",
        **found,
    }


def _any_pump() -> dict[str, Any]:
    """A pump's frame, and beneath it what `meta` is when the type says so."""
    frame = _object(PumpFrame)
    frame["properties"]["type"] = {
        "description": "Type of the pump; empty means the pump's name.",
        "type": "string",
    }
    frame["allOf"] = [
        {
            "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
            "then": {"properties": {"meta": _meta(kind)}},
        }
        for kind in pump_types()
    ]
    return frame


def _uptime() -> dict[str, Any]:
    """The options of both kinds side by side: those of the other do nothing."""
    properties: dict[str, Any] = {
        "uptime_type": {
            "description": "`sql`, or else Mongo is meant.",
            "type": ["string", "null"],
            "enum": ["", "mongo", "sql", None],
        }
    }
    for kind in uptime_types():
        properties |= _object(options_of(kind))["properties"]
    return {"properties": properties, "additionalProperties": False}


def _meta(kind: str) -> dict[str, Any]:
    found = _object(options_of(kind))
    found["properties"]["meta_env_prefix"] = {
        "description": "What the variables of these options start with.",
        "type": "string",
    }
    return found


def _object(options: type[Options]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for field in fields_of(options):
        shape = {"description": _sentence(field), **_shape(field)}
        if field.default is not REQUIRED and field.nested() is None:
            shape["default"] = _plain(field.default)
        properties[field.key] = shape
        for alias in field.aliases:
            properties[alias] = {"description": f"See {field.key}.", **_shape(field)}
    required = [f.key for f in fields_of(options) if f.default is REQUIRED]
    found: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        found["required"] = required
    return {**found, "additionalProperties": False}


def _shape(field: Field) -> dict[str, Any]:
    nested, items = field.nested(), field.items()
    if nested is not None:
        return _object(nested)
    if items is not None:
        inner = _object(items[1])
        if items[0] is list:
            return {"type": ["array", "null"], "items": inner}
        return {"type": ["object", "null"], "additionalProperties": inner}
    if field.seconds:
        return {"type": ["number", "string", "null"], **_limits(field)}
    if field.numeral:
        return {"type": ["integer", "string", "null"], **_limits(field)}
    return {**_kind(field.base), **_limits(field)}


def _kind(base: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(base), typing.get_args(base)
    if origin is list:
        items = {"type": _WORDS[args[0]]} if args[0] in _WORDS else {}
        return {"type": ["array", "null"], "items": items}
    if origin is dict:
        inner = {"type": _WORDS[args[1]]} if args[1] in _WORDS else {}
        return {"type": ["object", "null"], "additionalProperties": inner}
    # null leaves an option at its default, so it is always allowed.
    return {"type": [_WORDS[base], "null"]} if base in _WORDS else {}


_WORDS: dict[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    Secret: "string",
}
_SIGNS = {
    "more than": "exclusiveMinimum",
    "at least": "minimum",
    "at most": "maximum",
}


def _limits(field: Field) -> dict[str, Any]:
    return {_SIGNS[sign]: limit for sign, limit in field.limits}


# The text of `tyk-pump options`


def text(kind: str = "") -> str:
    """Return the options of a pump type, or those outside the pumps, as plain text."""
    options = options_of(kind) if kind else RootOptions
    lines: list[str] = []
    for key, field in walk(options):
        lines.append(f"{key}  ({type_name(field)}, default {_default(field)})")
        lines.append(f"    {_sentence(field)}".replace("`", ""))
    return "\n".join(lines).replace("default required", "required").replace("`", "")
