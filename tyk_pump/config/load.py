"""The file, then the environment -> typed options, before any process starts.

Nothing here raises for what the operator wrote: every fault is gathered with its
place, so that one look shows them all.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tyk_pump import log, pumps
from tyk_pump.config import environment
from tyk_pump.config.environment import Variables
from tyk_pump.config.fields import (
    REQUIRED,
    Field,
    Unresolved,
    Wrong,
    convert,
    fields_of,
    keys_of,
    nearest,
)
from tyk_pump.config.lookup import Declared, Stores, StoreUse, texts_in
from tyk_pump.config.options import Options, Secret
from tyk_pump.config.root import (
    KvOptions,
    PumpConfig,
    PumpFrame,
    RootOptions,
    StoreOptions,
    split_address,
)
from tyk_pump.cursors import UPTIME
from tyk_pump.errors import ConfigError, SecretError
from tyk_pump.record import analytics
from tyk_pump.secrets.reference import is_reference

Report = Callable[[str], None]

STORES = "TYK_PMP_KV_STORES"
"""A JSON object of stores, each in place of the file's store of that name."""


class Config(msgspec.Struct, kw_only=True):
    """What the operator wrote, read once and complete."""

    root: RootOptions
    pumps: list[PumpConfig]
    warnings: list[str] = []
    faults: list[str] = []
    """What is wrong outside the pumps; a pump's own faults are in its `fault`."""
    skipped: list[str] = []
    """Pumps of which not even the type is known; they are not in `pumps`."""
    path: str = ""
    uptime_left: str = ""
    """Why uptime reports stay in Redis although nobody has asked for it, or nothing."""
    demo_org: str = ""
    """Organisation of TYK_PMP_BUILDDEMODATA; made-up records are wanted."""
    instrumentation: bool = False
    passing: bool = False
    """Whether the faults may go by themselves: a store of secrets does not answer."""
    stores: list[StoreUse] = []
    """The declared stores of secrets."""

    def every_fault(self) -> list[str]:
        """Return all that `check` refuses: faults, of pumps too, and skipped pumps."""
        own = [line for pump in self.pumps for line in pump.fault.splitlines()]
        return [*self.faults, *self.skipped, *own]


class _Object(dict[str, Any]):
    """A JSON object that remembers which keys were written twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__()
        self.twice: list[str] = []
        spelt: dict[str, str] = {}
        for key, value in pairs:
            if key.lower() in spelt:
                self.twice.append(key)
                # Spelt in another case it is the same key, and the last counts.
                del self[spelt[key.lower()]]
            spelt[key.lower()] = key
            self[key] = value


class _Left(Exception):
    """A value is not looked up: that failed, or it was not wanted and is `known`."""

    def __init__(self, *, known: bool = False) -> None:
        super().__init__()
        self.known = known


class _Loader:
    """One reading: gathers faults and warnings on the way."""

    def __init__(self, variables: Variables) -> None:
        self.variables = variables
        self.faults: list[str] = []
        self.warnings: list[str] = []
        self.skipped: list[str] = []
        self.passing: set[str] = set()
        """Faults that may go by themselves."""
        self.stores = Stores({}, self.store_options, variables.get)

    # The file

    def read_file(self, path: str | None) -> dict[str, Any]:
        """Return the file's object; an empty one where it cannot be read."""
        omit = self.variables.get("TYK_PMP_OMITCONFIGFILE") or ""
        if path is None or omit.lower() == "true":
            return {}
        try:
            text = Path(path).read_bytes().decode("utf-8", "replace")
        except OSError as exc:
            self.faults.append(f"{path}: cannot be read: {exc.strerror}")
            return {}
        try:
            return _parsed(text)
        except Wrong as exc:
            self.faults.append(f"{path}: {exc}")
            return {}

    def read(
        self,
        options: type[Options],
        raw: Any,
        place: str,
        fault: Report,
        skip: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """Return attribute -> value of what fits; report the rest."""
        values: dict[str, Any] = {}
        if raw is None:
            return values
        if not isinstance(raw, dict):
            fault(f"{place or 'the file'}: expected an object, got {_kind(raw)}")
            return values
        self.note_twice(raw, place)
        known = keys_of(options)
        for key, value in raw.items():
            where = f"{place}.{key}" if place else key
            field = known.get(key.lower())
            if key.lower() in skip:
                continue
            if field is None:
                hint = nearest(key, [*known, *skip])
                self.warnings.append(f"{where}: unknown option{hint}")
                continue
            # null leaves the default, as an absent key does.
            if value is None:
                continue
            nested, items = field.nested(), field.items()
            if nested is not None:
                values[field.name] = self.read(nested, value, where, fault)
                continue
            if items is not None:
                self.read_items(items, field.name, value, where, fault, values)
                continue
            if not field.literal and is_reference(value):
                values[field.name] = Unresolved(value, where)
                continue
            try:
                values[field.name] = convert(field, value)
            except Wrong as exc:
                fault(f"{where}{exc.where}: {exc}")
        return values

    def read_items(
        self,
        items: tuple[type[Any], type[Options]],
        name: str,
        value: Any,
        where: str,
        fault: Report,
        values: dict[str, Any],
    ) -> None:
        """Read a list or an object of options."""
        origin, options = items
        if not isinstance(value, origin):
            fault(f"{where}: expected {origin.__name__}, got {_kind(value)}")
        elif origin is list:
            values[name] = [
                self.build(options, self.read(options, item, at, fault), at, fault)
                for item, at in ((v, f"{where}[{i}]") for i, v in enumerate(value))
            ]
        else:
            values[name] = {
                key: self.build(options, self.read(options, item, at, fault), at, fault)
                for key, item, at in ((k, v, f"{where}.{k}") for k, v in value.items())
            }

    def note_twice(self, raw: dict[str, Any], place: str) -> None:
        """Warn of keys that were written twice."""
        for key in getattr(raw, "twice", ()):
            where = f"{place}.{key}" if place else key
            self.warnings.append(f"{where}: written twice, the last one counts")

    # Values to options

    def build(
        self, options: type[Options], values: dict[str, Any], place: str, fault: Report
    ) -> Any:
        """Return the options, or None where a required one is missing."""
        made: dict[str, Any] = {}
        missing = False
        left: set[str] = set()
        for field in fields_of(options):
            where = f"{place}.{field.key}" if place else field.key
            nested = field.nested()
            value = values.get(field.name)
            if isinstance(value, Unresolved):
                try:
                    made[field.name] = self.look_up(field, value, fault)
                except _Left as exc:
                    left.add(field.key)
                    missing |= field.default is REQUIRED
                    if exc.known and field.base in (str, Secret):
                        made[field.name] = field.base(value.value)
                        missing = False
                continue
            if nested is not None and field.name in values:
                inner = self.build(nested, values[field.name], where, fault)
                if inner is not None:
                    made[field.name] = inner
                else:
                    missing = True
            elif field.name in values:
                made[field.name] = values[field.name]
            elif field.default is REQUIRED:
                fault(f"{where}: missing")
                missing = True
        if missing:
            return None
        try:
            result = options(**made)
        except (ValueError, TypeError) as exc:
            fault(f"{place or options.__name__}: {exc}")
            return None
        for key, reason in result.faults():
            if key.partition(".")[0].partition("[")[0] in left:
                continue  # nobody knows what stands there
            fault(f"{place}.{key}: {reason}" if place else f"{key}: {reason}")
        return result

    # Stores of secrets

    def declare(self, raw: Any, **how: Any) -> None:
        """Take the stores of the file, and those of the variable in their places."""
        self.variables.get(STORES)
        found = self.declared(_member(_member(raw, "kv"), "stores"), "kv.stores")
        text = self.variables.get(STORES) or ""
        if text.strip():
            try:
                found |= self.declared(_parsed(text), STORES)
            except Wrong as exc:
                self.faults.append(f"{STORES}: {exc}")
        self.stores = Stores(found, self.store_options, self.variables.get, **how)

    def declared(self, raw: Any, place: str) -> dict[str, Declared]:
        """Return the stores of one place; report what is wrong with them."""
        found: dict[str, Declared] = {}
        faults: list[str] = []
        values = self.read(KvOptions, {"stores": raw}, "", faults.append)
        for name, store in values.get("stores", {}).items():
            if isinstance(store, StoreOptions):
                where = f"{place}.{name}"
                found[name] = Declared(
                    name, store.type, store.required, store.config, where
                )
        self.faults += [place + fault.removeprefix("stores") for fault in faults]
        return found

    def store_options(
        self, options: type[Options], raw: Any, place: str, fault: Report
    ) -> Options | None:
        """Return a store's own options, its references looked up."""
        before = len(self.warnings)
        values = self.read(options, raw, place, fault)
        environment.fall_back(options, values, self.variables, fault)
        found = self.build(options, values, place, fault)
        # In a store an unknown key is no trifle: it may be the one that protects it.
        for warning in self.warnings[before:]:
            fault(warning)
        del self.warnings[before:]
        return found if isinstance(found, Options) else None

    def look_up(self, field: Field, found: Unresolved, fault: Report) -> Any:
        """Return an option's value with all that it refers to; _Left without."""
        if not field.textual():
            fault(f"{found.where}: only a text can refer to a store of secrets")
            raise _Left
        if not self.stores.wanted(found.where):
            raise _Left(known=True)
        before = len(self.stores.given)
        value = self.replaced(found.value, found.where, fault)
        try:
            return convert(field, value)
        except Wrong as exc:
            reason = str(exc)
            for text in self.stores.given[before:]:
                if text:  # a short one is not hidden elsewhere
                    reason = reason.replace(repr(text), "***").replace(text, "***")
            fault(f"{found.where}{exc.where}: {reason}")
            raise _Left from None

    def replaced(self, value: Any, where: str, fault: Report) -> Any:
        """Return a value with its texts looked up."""
        failed = left = False
        texts: dict[str, str] = {}
        for place, text in texts_in(value, where):
            if not is_reference(text):
                continue
            try:
                found = self.stores.resolve(text)
            except SecretError as exc:
                failed = True
                line = f"{place}: {exc}"
                if exc.passing:
                    self.passing.add(line)
                fault(line)
                continue
            left = left or found is None
            if found == "":
                self.warnings.append(f"{place}: the store has an empty text for it")
            texts[text] = found or ""
        if failed or left:
            raise _Left(known=not failed)
        return _with(value, texts)

    def text(self, value: Any, where: str, fault: Report) -> Any:
        """Return a text that decides how the others are read."""
        if isinstance(value, Unresolved):
            value, where = value.value, value.where
        if not is_reference(value) or not self.stores.wanted(where):
            return value
        try:
            return self.replaced(value, where, fault)
        except _Left:
            return ""

    def may_pass(self, faults: list[str]) -> bool:
        """Whether these faults may go by themselves, all of them."""
        return bool(faults) and self.passing.issuperset(faults)

    # The root

    def root(self, raw: dict[str, Any]) -> RootOptions:
        """Return the options outside the pumps."""
        fault = self.faults.append
        level = (self.variables.get("TYK_LOGLEVEL") or "").lower()
        # Once this variable says the level, nobody looks at the other places.
        skip = ("pumps", "uptime_pump_config", "kv", *(("log_level",) if level else ()))
        values = self.read(RootOptions, raw, "", fault, skip)
        storage = values.setdefault("analytics_storage_config", {})
        environment.overlay(
            RootOptions,
            values,
            environment.PREFIX,
            self.variables,
            fault,
            skip=("analytics_storage_config", *skip),
        )
        kind = type(RootOptions().analytics_storage_config)
        for prefix in environment.STORAGE_PREFIXES:
            # References are never looked up in the two later forms.
            first = prefix == environment.STORAGE_PREFIXES[0]
            environment.overlay(
                kind, storage, prefix, self.variables, fault, references=first
            )
        if level:
            self.variables.get("TYK_PMP_LOGLEVEL")
            known = ("error", "warn", "debug")
            values["log_level"] = level if level in known else "info"
        if layout := self.variables.get("TYK_LOGFORMAT"):
            values["log_format"] = layout
        self.warn_of_root(values)
        root = self.build(RootOptions, values, "", fault)
        if not isinstance(root, RootOptions):
            return RootOptions()
        redis = root.analytics_storage_config
        if redis.iam_auth.enabled and not redis.tls():
            self.warnings.append(
                "analytics_storage_config.iam_auth: tokens travel in the clear without "
                "use_ssl"
            )
        return root

    def warn_of_root(self, values: dict[str, Any]) -> None:
        """Say which root options do less than their names promise."""
        for key in ("raw_request_decoded", "raw_response_decoded"):
            if values.get(key):
                self.warnings.append(
                    f"{key}: deprecated and without effect; set it on each pump"
                )
        if values.get("purge_chunk") == -1:
            self.warnings.append("purge_chunk: -1 means 0, no limit")

    def look_at_statsd(self, place: str) -> None:
        """See whether our own metrics, which are wanted, have a place to go to."""
        if not place:
            self.warnings.append(
                "TYK_INSTRUMENTATION: no metrics are sent without "
                "statsd_connection_string"
            )
            return
        try:
            _, port = split_address(place, 0)
        except ValueError:
            port = 0
        if not 0 < port <= 65535:
            self.faults.append(f"statsd_connection_string: {place!r} is no host:port")

    # The pumps

    def pumps(self, raw: Any) -> list[PumpConfig]:
        """Return the pumps of the file and of the environment."""
        in_file = self.file_pumps(raw)
        types = pumps.REGISTRY
        if self.variables.get(environment.PUMPS) is not None:
            self.warnings.append(
                f"{environment.PUMPS}: ignored; set variables of single pumps"
            )
        in_env = environment.pump_names(self.variables, in_file, types)
        prefixes = set(environment.META_PREFIXES.values())
        names = [*in_file, *(name for name in sorted(in_env) if name not in in_file)]
        found = []
        for name in names:
            written, body = in_file.get(name, (name.lower(), {}))
            variables = in_env.get(name, [])
            if name not in in_file and name in prefixes:
                # Options for all pumps of a type, and no pump of its own.
                self.forget(variables)
                continue
            pump = self.pump(name, written, body, bool(variables), name in in_file)
            if pump is None:
                self.forget(variables)
            else:
                found.append(pump)
        return found

    def forget(self, variables: list[str]) -> None:
        """Take variables as known of which enough has been said."""
        for name in variables:
            self.variables.get(name)

    def file_pumps(self, raw: Any) -> dict[str, tuple[str, Any]]:
        """Return upper-case name -> name as written and body."""
        if raw is None:
            return {}
        if not isinstance(raw, dict):
            self.faults.append(f"pumps: expected an object, got {_kind(raw)}")
            return {}
        self.note_twice(raw, "pumps")
        return {name.upper(): (name, body) for name, body in raw.items()}

    def pump(
        self, name: str, written: str, body: Any, by_env: bool, in_file: bool
    ) -> PumpConfig | None:
        """Return one pump, with its faults, or None where it has no known type."""
        faults: list[str] = []
        given = len(self.stores.given)
        place = f"pumps.{written}"
        prefix = f"{environment.PUMPS}_{name}"
        frame = self.read(PumpFrame, body, place, faults.append)
        told = self.text(frame.pop("type", ""), place, faults.append)
        in_body = str(told).lower()
        kind, by_env = self.type_of(name, in_body, by_env, in_file)
        if kind is None:
            return None
        if kind not in pumps.REGISTRY:
            hint = nearest(kind, pumps.REGISTRY)
            self.skipped.append(f"{place}: unknown pump type {kind!r}{hint}")
            return None
        if by_env:
            environment.overlay(
                PumpFrame,
                frame,
                prefix,
                self.variables,
                faults.append,
                skip=("type", "meta"),
            )
            if self.variables.get(f"{prefix}_META") is not None:
                self.warnings.append(f"{prefix}_META: ignored; set single options")
        meta = frame.pop("meta", {})
        raw_meta = _member(body, "meta")
        if isinstance(raw_meta, dict):
            meta = raw_meta
        built = self.build(PumpFrame, frame, place, faults.append) or PumpFrame()
        self.warn_of_fields(built, place)
        own = f"{prefix}_META" if by_env else ""
        meta, options = self.meta(kind, meta, f"{place}.meta", own, faults)
        common = {
            field.name: getattr(built, field.name)
            for field in fields_of(PumpFrame)
            if field.name not in ("type", "name", "meta")
        }
        if kind in pumps.SERVING and built.workers > 1:
            faults.append(f"{place}.workers: {kind} has one worker only")
        for key in ("raw_request_decoded", "raw_response_decoded"):
            if kind in pumps.STORE_BODIES_AS_SENT and common[key]:
                self.warnings.append(f"{place}.{key}: without effect on {kind}")
                common[key] = False
        return PumpConfig(
            name=name,
            type=kind,
            meta=meta,
            options=None if faults else options,
            fault=log.masked("\n".join(faults)),
            passing=self.may_pass(faults),
            secrets=self.given_since(given),
            **common,
        )

    def given_since(self, number: int) -> tuple[Secret, ...]:
        """Return what stores have given since they had given so many texts."""
        return tuple(map(Secret, dict.fromkeys(self.stores.given[number:])))

    def type_of(
        self, name: str, in_body: str, by_env: bool, in_file: bool
    ) -> tuple[str | None, bool]:
        """Return the pump's type and whether its variables count."""
        variable = f"{environment.PUMPS}_{name}_TYPE"
        in_env = (self.variables.get(variable) or "").lower()
        if by_env and name.lower() in pumps.REGISTRY:
            for other in (in_env, in_body):
                if other not in ("", name.lower()):
                    self.warnings.append(
                        f"pumps.{name.lower()}: type {other!r} is ignored, the name "
                        "is a type and variables are set for it"
                    )
            return name.lower(), True
        if by_env and in_env:
            return in_env, True
        if by_env and not in_body:
            self.warnings.append(
                f"{environment.PUMPS}_{name}_...: ignored, {variable} is not set"
            )
            return (name.lower(), False) if in_file else (None, False)
        return in_body or name.lower(), by_env

    def meta(
        self, kind: str, raw: dict[str, Any], place: str, own: str, faults: list[str]
    ) -> tuple[dict[str, Any], Any]:
        """Return a pump's own options, as written and typed."""
        lowered = {key.lower(): value for key, value in raw.items()}
        where = f"{place}.meta_env_prefix"
        in_file = self.text(lowered.get("meta_env_prefix"), where, faults.append)
        shared = environment.meta_prefix(kind)
        prefix = own or (in_file if isinstance(in_file, str) else "") or shared
        try:
            options_type: type[Options] = pumps.load(kind).options_type
        except (ConfigError, ImportError) as exc:
            faults.append(f"{place[:-5]}: {exc}")
            return lowered, None
        skip = ("meta_env_prefix",)
        values = self.read(options_type, raw, place, faults.append, skip)
        environment.overlay(
            options_type,
            values,
            prefix,
            self.variables,
            faults.append,
            read_items=self.read_items,
        )
        old = environment.legacy(
            kind, options_type, values, self.variables, faults.append
        )
        self.warnings.extend(
            f"{name}: deprecated, write {shared}_{name.split('_', 2)[2]}"
            for name in old
        )
        environment.fall_back(options_type, values, self.variables, faults.append)
        options = self.build(options_type, values, place, faults.append)
        return {**_normalised(options_type, raw), **_as_written(values)}, options

    # The uptime pump

    def uptime(self, raw: Any) -> PumpConfig | None:
        """Return the uptime pump, with its faults, or None where nothing speaks of it.

        Its options stand side by side in one object, those of Mongo and those of SQL.
        """
        place, prefix = "uptime_pump_config", environment.UPTIME
        legacy = f"{environment.LEGACY_PREFIXES['mongo']}_MONGOURL"
        spoken = self.variables.starting(f"{prefix}_") or self.variables.get(legacy)
        if not raw and not spoken:
            return None
        faults: list[str] = []
        given = len(self.stores.given)
        if raw is not None and not isinstance(raw, dict):
            faults.append(f"{place}: expected an object, got {_kind(raw)}")
            raw = {}
        kind = self.uptime_type(_member(raw, "uptime_type"), place, faults)
        meta: dict[str, Any] = {}
        try:
            options_type: type[Options] = pumps.load(kind).options_type
        except (ConfigError, ImportError) as exc:
            faults.append(f"{place}: {exc}")
            self.variables.ignore(f"{prefix}_")
            return uptime_pump(kind, faults)
        own = {*keys_of(options_type), "uptime_type", "meta_env_prefix"}
        strange = [key for key in raw or {} if key.lower() not in own]
        skip = ("uptime_type", "meta_env_prefix", *(key.lower() for key in strange))
        meta = self.read(options_type, raw, place, faults.append, skip)
        environment.overlay(options_type, meta, prefix, self.variables, faults.append)
        self.strange_to_uptime(kind, raw or {}, strange, sorted(own))
        if kind == "uptime-mongo" and not meta.get("mongo_url"):
            # The variables of old versions, and then the usual collection.
            old = environment.legacy(
                "mongo", options_type, meta, self.variables, faults.append
            )
            self.warnings.extend(
                f"{name}: deprecated, write {prefix}_{name.split('_', 2)[2]}"
                for name in old
            )
            meta.pop("collection_name", None)
        environment.fall_back(options_type, meta, self.variables, faults.append)
        options = self.build(options_type, meta, place, faults.append)
        found = uptime_pump(kind, faults, _as_written(meta), options)
        found.passing = self.may_pass(faults)
        found.secrets = self.given_since(given)
        return found

    def uptime_type(self, in_file: Any, place: str, faults: list[str]) -> str:
        """Return the pump that is meant: SQL's where that is said, else Mongo's."""
        name = f"{environment.UPTIME}_UPTIMETYPE"
        said = self.variables.get(name)
        where = f"{place}.uptime_type" if said is None else name
        said = self.text(in_file if said is None else said, where, faults.append)
        if said is not None and not isinstance(said, str):
            faults.append(f"{where}: expected str, got {_kind(said)}")
        elif said not in (None, "", "mongo", "sql"):
            self.warnings.append(f"{where}: {said!r} is taken as mongo")
        return "uptime-sql" if said == "sql" else "uptime-mongo"

    def strange_to_uptime(
        self, kind: str, raw: dict[str, Any], strange: list[str], own: list[str]
    ) -> None:
        """Warn of what is no option here; the other kind's are known."""
        prefix = f"{environment.UPTIME}_"
        unread = self.variables.unread(prefix)
        if not strange and not unread:
            return  # then the other kind's driver is not loaded
        theirs: dict[str, Field] = {}
        for other in pumps.UPTIME.keys() - {kind}:
            with contextlib.suppress(ConfigError, ImportError):
                found: type[Options] = pumps.load(other).options_type
                theirs |= keys_of(found)
        nothing = f"without effect on {kind}, see uptime_type"
        for key in strange:
            where = f"uptime_pump_config.{key}"
            if key.lower() not in theirs:
                hint = nearest(key, own)
                self.warnings.append(f"{where}: unknown option{hint}")
            elif raw[key]:
                self.warnings.append(f"{where}: {nothing}")
        names = tuple(f"{prefix}{field.env}" for field in theirs.values())
        for name in unread:
            if name.startswith(names) and self.variables.get(name):
                self.warnings.append(f"{self.variables.written(name)}: {nothing}")

    def warn_of_fields(self, frame: PumpFrame, place: str) -> None:
        """Warn once of names in ignore_fields that no record has."""
        for name in frame.ignore_fields:
            # `-` is how the reference names the field without a JSON name.
            if name != "-" and name not in analytics.JSON_NAMES:
                hint = nearest(name, analytics.JSON_NAMES)
                self.warnings.append(
                    f"{place}.ignore_fields: records have no field {name!r}{hint}"
                )


def hide_secrets(config: Config) -> None:
    """Mask all secrets of a configuration in what this process says."""
    log.hide_secrets(config.root)
    for pump in config.pumps:
        log.hide_secrets([pump.options, pump.secrets])


def load(
    path: str | None,
    environ: Mapping[str, str],
    *,
    remote: bool = True,
    only: Container[str] | None = None,
) -> Config:
    """Read the file, if any, and the environment, and look up what they refer to.

    Without `remote` no store over the network is asked; `only` names the options that
    are looked up at all. What is not looked up stands there as it is written.
    """
    variables = Variables(environ)
    loader = _Loader(variables)
    raw = loader.read_file(path)
    loader.declare(raw, remote=remote, only=only)
    try:
        if only is None:
            loader.stores.prove(loader.faults.append)
        return _load(loader, raw, path, environ)
    finally:
        loader.stores.close()


def _load(
    loader: _Loader, raw: dict[str, Any], path: str | None, environ: Mapping[str, str]
) -> Config:
    variables = loader.variables
    root = loader.root(raw)
    found = loader.pumps(_member(raw, "pumps"))
    if not found:
        loader.faults.append("No pumps configured")
    uptime = None
    if root.dont_purge_uptime_data:
        variables.ignore(f"{environment.UPTIME}_")
    else:
        uptime = loader.uptime(_member(raw, "uptime_pump_config"))
    if uptime is not None:
        found.append(uptime)
    left = uptime is None and not root.dont_purge_uptime_data
    loader.warnings.extend(_unread_legacy(environ, {pump.type for pump in found}))
    variables.ignore("TYK_PMP_PUMPS_KAFKA_META_TIMEOUT")
    demo = variables.get("TYK_PMP_BUILDDEMODATA") or ""
    instrumentation = variables.get("TYK_INSTRUMENTATION") == "1"
    if instrumentation:
        loader.look_at_statsd(root.statsd_connection_string)
    loader.warnings.extend(variables.unknown())
    return Config(
        root=root,
        pumps=found,
        warnings=list(map(log.masked, loader.warnings)),
        faults=list(map(log.masked, loader.faults)),
        skipped=list(map(log.masked, loader.skipped)),
        passing=loader.may_pass(loader.faults),
        stores=list(loader.stores.uses.values()),
        path=path or "",
        uptime_left=_UPTIME_LEFT if left else "",
        demo_org=demo,
        instrumentation=instrumentation,
    )


def _unread_legacy(environ: Mapping[str, str], types: set[str]) -> Iterator[str]:
    """Yield a warning for the variables of old versions that no pump reads."""
    for kind, prefix in environment.LEGACY_PREFIXES.items():
        if kind in types and kind in pumps.REGISTRY:
            continue
        if kind == "mongo" and "uptime-mongo" in types:
            continue  # it may read them, too
        if any(name.startswith(f"{prefix}_") for name in environ):
            yield f"{prefix}_...: ignored, there is no {kind} pump"


_UPTIME_LEFT = (
    "uptime reports stay in their list: uptime_pump_config names no store for them "
    "(dont_purge_uptime_data says that they shall)"
)


def uptime_pump(
    kind: str,
    faults: list[str],
    meta: dict[str, Any] | None = None,
    options: Any = None,
) -> PumpConfig:
    """Return the uptime pump: it has no filters and none of what other pumps have."""
    return PumpConfig(
        name=UPTIME,
        type=kind,
        meta=meta or {},
        options=None if faults else options,
        fault=log.masked("\n".join(faults)),
    )


def _as_written(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with references where they stood: never what they stand for."""
    return {
        key: value.value if isinstance(value, Unresolved) else value
        for key, value in values.items()
    }


def _with(value: Any, texts: Mapping[str, str]) -> Any:
    """Return a copy of a value in which these texts are others."""
    if isinstance(value, str):
        return texts.get(value, value)
    if isinstance(value, dict):
        return {key: _with(item, texts) for key, item in value.items()}
    if isinstance(value, list):
        return [_with(item, texts) for item in value]
    return value


def _parsed(text: str) -> dict[str, Any]:
    if not text.strip():
        raise Wrong("the file is empty")
    try:
        raw = json.loads(
            text, object_pairs_hook=_Object, parse_constant=_refuse_constant
        )
    except json.JSONDecodeError as exc:
        if text.startswith("\ufeff"):
            raise Wrong("begins with a byte order mark; save it without") from exc
        place = f"line {exc.lineno} column {exc.colno}"
        raise Wrong(f"is no JSON: {exc.msg} at {place}") from exc
    except (ValueError, RecursionError) as exc:
        raise Wrong(f"is no JSON: {exc}") from exc
    if not isinstance(raw, dict):
        raise Wrong(f"expected an object, got {_kind(raw)}")
    return raw


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _member(raw: Any, key: str) -> Any:
    """Return the value under a key in any case."""
    if not isinstance(raw, dict):
        return None
    return next((value for name, value in raw.items() if name.lower() == key), None)


def _normalised(options: type[Options], raw: dict[str, Any]) -> dict[str, Any]:
    """Return the object with known keys spelt as they are documented."""
    known = keys_of(options)
    return {
        known[key.lower()].key if key.lower() in known else key.lower(): value
        for key, value in raw.items()
    }


_KINDS = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    list: "array",
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "object")
