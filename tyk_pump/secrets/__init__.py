"""Stores of secrets: where the texts come from that options refer to.

One module per kind of store. Each is asked before any worker starts, and again on
`reload`; workers get the texts and never see a store.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from tyk_pump.secrets.protocol import Store

REGISTRY: Final[dict[str, str]] = {
    "env": "tyk_pump.secrets.env:EnvStore",
    "inline": "tyk_pump.secrets.inline:InlineStore",
    "file": "tyk_pump.secrets.file:FileStore",
    "hashicorp_vault": "tyk_pump.secrets.vault:VaultStore",
    "hashicorp_consul": "tyk_pump.secrets.consul:ConsulStore",
    "aws_secrets_manager": "tyk_pump.secrets.aws:AwsStore",
    "gcp_secret_manager": "tyk_pump.secrets.gcp:GcpStore",
    "azure_key_vault": "tyk_pump.secrets.azure:AzureStore",
}
"""Type of a store -> where its class is. The modules import their drivers late, so
that options can be described where no driver is installed."""

LOCAL: Final = frozenset({"env", "inline", "file"})
"""Types that need no network; the configuration of the others may refer to these."""


def load(kind: str) -> type[Store]:
    """Return the class of a store type."""
    module, _, name = REGISTRY[kind].partition(":")
    return cast("type[Store]", getattr(import_module(module), name))
