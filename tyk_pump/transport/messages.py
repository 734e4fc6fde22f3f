"""Messages of a batch to a log receiver, over UDP, TCP or TLS."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tyk_pump.config.options import SocketOptions
from tyk_pump.errors import TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.transport.bulk import Bulk, Encode, Part, Verdict
from tyk_pump.transport.datagram import Datagrams, Stream, TooLong


class Messages:
    """Sends one message per record.

    Over UDP an item is a datagram or the list of those that make up one message; over
    TCP and TLS it is the message with what tells it from the next one.
    """

    def __init__(self, options: SocketOptions, host: str, port: int) -> None:
        """ConfigError where a file for TLS cannot be used."""
        self._place = f"{host}:{port}"
        self._transport = options.transport
        self._bulk = Bulk(max_bytes=sys.maxsize)
        self._datagrams: Datagrams | None = None
        if options.transport == "udp":
            self._datagrams = Datagrams(host, port)
            return
        self._stream = Stream(
            host,
            port,
            options if options.transport == "tls" else None,
            timeout=options.send_timeout,
            until_read=options.confirm == "read",
        )

    def send(self, batch: Batch, encode: Encode) -> None:
        """Return when every message has arrived as far as can be known."""
        post = self._post_stream if self._datagrams is None else self._post_datagrams
        self._bulk.send(batch, encode, post)

    def probe(self) -> str:
        """Reach the receiver and say what was found."""
        if self._datagrams is not None:
            self._datagrams.open()
            return f"{self._place} over udp, which nobody confirms"
        self._stream.open()
        self._stream.close()
        return f"{self._place} takes connections over {self._transport}"

    def close(self) -> None:
        """Let go of the socket."""
        (self._datagrams or self._stream).close()

    def _post_stream(self, part: Part) -> None:
        self._stream.send(b"".join(part.items))

    def _post_datagrams(self, part: Part) -> Verdict | None:
        assert self._datagrams is not None
        send = self._datagrams.send
        rejected = {}
        for offset, item in enumerate(part.items):
            datagrams: Sequence[bytes] = (item,) if isinstance(item, bytes) else item
            try:
                for datagram in datagrams:
                    send(datagram)
            except TooLong as exc:
                rejected[offset] = str(exc)
            except TransientError as exc:
                # A refusal is told with a later datagram: the ones before it went
                # the same way, as far as we know.
                raise TransientError(exc.reason, rejected=rejected) from exc
        self._datagrams.check()
        return Verdict(rejected) if rejected else None
