"""The protobuf messages of a record, as the gateway declares them.

Built by hand when the first protobuf list is met, so that nobody needs a compiler and
nobody without such lists pays for the import.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE: Final = "normalproto"
_TIMESTAMP: Final = ".google.protobuf.Timestamp"

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES: Final = {
    "string": _Field.TYPE_STRING,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "double": _Field.TYPE_DOUBLE,
    "bool": _Field.TYPE_BOOL,
    "enum": _Field.TYPE_ENUM,
}

# message -> field number -> (name, type); a leading * means repeated, `map:` a map by
# text, any other unknown type a message.
_MESSAGES: Final[dict[str, dict[int, tuple[str, str]]]] = {
    "Country": {1: ("iso_code", "string")},
    "City": {1: ("names", "map:string"), 2: ("geoname_id", "uint32")},
    "Location": {
        1: ("latitude", "double"),
        2: ("longitude", "double"),
        3: ("time_zone", "string"),
    },
    "GeoData": {
        1: ("country", "Country"),
        2: ("city", "City"),
        3: ("location", "Location"),
    },
    "NetworkStats": {
        1: ("open_connections", "int64"),
        2: ("closed_connection", "int64"),
        3: ("bytes_in", "int64"),
        4: ("bytes_out", "int64"),
    },
    "Latency": {1: ("total", "int64"), 2: ("upstream", "int64")},
    "RepeatedFields": {1: ("fields", "*string")},
    "GraphQLStats": {
        1: ("is_graphql", "bool"),
        2: ("types", "map:RepeatedFields"),
        3: ("operation_type", "enum"),
        4: ("variables", "string"),
        5: ("root_fields", "*string"),
        6: ("has_errors", "bool"),
        7: ("errors", "*string"),
    },
    "MCPStats": {
        1: ("is_mcp", "bool"),
        2: ("jsonrpc_method", "string"),
        3: ("primitive_type", "string"),
        4: ("primitive_name", "string"),
    },
    "AnalyticsRecord": {
        1: ("host", "string"),
        2: ("method", "string"),
        3: ("path", "string"),
        4: ("raw_path", "string"),
        5: ("content_length", "int64"),
        6: ("user_agent", "string"),
        7: ("day", "int32"),
        8: ("month", "int32"),
        9: ("year", "int32"),
        10: ("hour", "int32"),
        11: ("response_code", "int32"),
        12: ("api_key", "string"),
        13: ("timestamp", _TIMESTAMP),
        14: ("api_version", "string"),
        15: ("api_name", "string"),
        16: ("api_id", "string"),
        17: ("org_id", "string"),
        18: ("request_time", "int64"),
        19: ("latency", "Latency"),
        20: ("raw_request", "string"),
        21: ("raw_response", "string"),
        22: ("ip_address", "string"),
        23: ("geo", "GeoData"),
        24: ("network", "NetworkStats"),
        25: ("tags", "*string"),
        26: ("alias", "string"),
        27: ("track_path", "bool"),
        28: ("expire_at", _TIMESTAMP),
        29: ("oauth_id", "string"),
        30: ("time_zone", "string"),
        31: ("api_schema", "string"),
        32: ("graphql_stats", "GraphQLStats"),
        33: ("mcp_stats", "MCPStats"),
        34: ("original_path", "string"),
        35: ("listen_path", "string"),
    },
}


def _add(message: Any, number: int, name: str, kind: str) -> None:
    label = _Field.LABEL_OPTIONAL
    if kind.startswith("*"):
        label, kind = _Field.LABEL_REPEATED, kind[1:]
    elif kind.startswith("map:"):
        entry = message.nested_type.add()
        entry.name = "".join(part.title() for part in name.split("_")) + "Entry"
        entry.options.map_entry = True
        _add(entry, 1, "key", "string")
        _add(entry, 2, "value", kind[4:])
        label, kind = _Field.LABEL_REPEATED, f".{_PACKAGE}.{message.name}.{entry.name}"
    field = message.field.add()
    field.name, field.number, field.label = name, number, label
    if kind in _TYPES:
        field.type = _TYPES[kind]
        if kind == "enum":
            field.type_name = f".{_PACKAGE}.GraphQLOperations"
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = kind if kind[0] == "." else f".{_PACKAGE}.{kind}"


def _build() -> Any:
    from google.protobuf import timestamp_pb2

    file = descriptor_pb2.FileDescriptorProto()
    file.name, file.package, file.syntax = "analytics.proto", _PACKAGE, "proto3"
    file.dependency.append(timestamp_pb2.DESCRIPTOR.name)
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add()
        message.name = message_name
        for number, (name, kind) in fields.items():
            _add(message, number, name, kind)
    operations = file.enum_type.add()
    operations.name = "GraphQLOperations"
    for number, name in enumerate(("UNKNOWN", "QUERY", "MUTATION", "SUBSCRIPTION")):
        value = operations.value.add()
        value.name, value.number = f"OPERATION_{name}", number
    # A pool of our own: another package may have declared the same names.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{_PACKAGE}.AnalyticsRecord")
    )


AnalyticsMessage: Final[Any] = _build()
"""The message class; its fields have our attribute names."""
