"""rsyslog of Debian on UDP, TCP and TLS; and what a syslog server makes of a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import absent, free_port, program
from tests.servers.process import listening
from tests.servers.server import Lines, Server, gather
from tests.servers.tls import Authority

_CONFIG = """\
global(
    workDirectory="{folder}"
    maxMessageSize="256k"
    parser.escapeControlCharactersOnReceive="off"
    parser.permitSlashInProgramName="on"
{ca}
)
main_queue(queue.timeoutShutdown="15000" queue.timeoutActionCompletion="15000")
module(load="imudp")
module(load="imtcp" maxFrameSize="262144")
template(name="json" type="list" option.jsonf="on") {{
    property(outname="transport" name="inputname" format="jsonf")
    property(outname="pri" name="pri" format="jsonf")
    property(outname="time" name="timereported" dateFormat="rfc3339" format="jsonf")
    property(outname="host" name="hostname" format="jsonf")
    property(outname="app" name="app-name" format="jsonf")
    property(outname="pid" name="procid" format="jsonf")
    property(outname="msgid" name="msgid" format="jsonf")
    property(outname="structured" name="structured-data" format="jsonf")
    property(outname="text" name="msg" format="jsonf")
    property(outname="raw" name="rawmsg" format="jsonf")
}}
ruleset(name="keep") {{
    action(
        type="omfile" file="{folder}/out.jsonl" template="json"
        asyncWriting="off" flushOnTXEnd="on"
    )
}}
input(
    type="imudp" address="127.0.0.1" port="{udp}" ruleset="keep" name="udp"
)
input(
    type="imtcp" address="127.0.0.1" port="{tcp}" ruleset="keep" name="tcp"
)
{tls}
"""
_CA = """\
    defaultNetstreamDriverCAFile="{ca}"
    defaultNetstreamDriverCertFile="{chain}"
    defaultNetstreamDriverKeyFile="{key}"
"""
_TLS = """\
input(
    type="imtcp" address="127.0.0.1" port="{port}" ruleset="keep" name="tls"
    streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="{mode}"
)
"""


@dataclass(frozen=True)
class Message:
    """What a server understood; what the line did not have is an empty string."""

    transport: str
    """udp, tcp or tls; with syslog-ng also octets, which is TCP with octet counts."""
    pri: int
    time: str
    host: str
    app: str
    pid: str
    msgid: str
    structured: str
    text: str
    """Of an old-style (BSD) line rsyslog keeps the blank behind the tag."""
    raw: str


def message(line: dict[str, Any]) -> Message:
    """Return the message of a line of output; a dash says that there is nothing."""
    plain = {name: "" if value == "-" else value for name, value in line.items()}
    pri = int(plain.pop("pri"))
    return Message(pri=pri, **plain)


class Rsyslog(Server):
    """One server; it listens on TLS as well when there is an authority.

    TCP and TLS take both framings, by line and by octet count. With `demand` a client
    must have a certificate of the authority. An orderly end may take fifteen seconds:
    by default it gives up after three what it has not written, on a slow disk.
    """

    def __init__(
        self, folder: Path, authority: Authority | None = None, *, demand: bool = False
    ) -> None:
        self.program = program("rsyslogd", "/usr/sbin/rsyslogd") or absent("rsyslogd")
        self.udp, self.tcp, self.tls = free_port(), free_port(), free_port()
        self.authority = authority
        self._mode = "x509/certvalid" if demand else "anon"
        self._lines = Lines(folder / "out.jsonl")
        super().__init__(folder)

    def command(self) -> list[str]:
        """Return the command line."""
        ca = tls = ""
        if self.authority:
            chain, key = self.authority.server()
            ca = _CA.format(ca=self.authority.ca_file, chain=chain, key=key)
            tls = _TLS.format(port=self.tls, mode=self._mode)
        config, pid = self.folder / "rsyslog.conf", self.folder / "pid"
        # It refuses to start beside a living process of this number.
        pid.unlink(missing_ok=True)
        text = _CONFIG.format(
            folder=self.folder, ca=ca, tls=tls, udp=self.udp, tcp=self.tcp
        )
        config.write_text(text)
        return [self.program, "-n", "-f", str(config), "-i", str(pid)]

    def answers(self) -> bool:
        """Tell whether it has opened its ports."""
        tls = self.authority is None or listening(self.tls)
        return tls and listening(self.tcp) and udp_is_open(self.udp)

    def messages(self, at_least: int = 0, seconds: float = 10) -> list[Message]:
        """Return the messages, when so many are there."""
        return gather(self._read, at_least, seconds)

    def clear(self) -> None:
        """Forget the messages."""
        self._lines.clear()

    def _read(self) -> list[Message]:
        return [message(line) for line in self._lines.read()]


def udp_is_open(port: int) -> bool:
    """Tell whether a process of this machine has this UDP port."""
    wanted = f"0100007F:{port:04X}"
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    return any(line.split()[1] == wanted for line in lines)
