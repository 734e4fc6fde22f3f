"""syslog-ng on UDP, TCP and TLS, unpacked beside whatever else is installed."""

from __future__ import annotations

from pathlib import Path

from tests.servers import debian, free_port
from tests.servers.artefacts import found
from tests.servers.process import listening
from tests.servers.rsyslog import Message, message, udp_is_open
from tests.servers.server import Lines, Server, gather
from tests.servers.tls import Authority

_CONFIG = """\
@version: 3.38
options {{ stats-freq(0); flush-lines(1); keep-hostname(yes); log-msg-size(262144);
    frac-digits(6); }};
template t_json {{
    template("$(format-json transport=$SOURCE pri=$PRI time=$ISODATE host=$HOST
        app=$PROGRAM pid=$PID msgid=$MSGID structured=$SDATA text=$MESSAGE
        raw=$RAWMSG)\\n");
}};
source udp {{
    network(
        ip(127.0.0.1) port({udp}) transport(udp)
        flags(syslog-protocol, store-raw-message)
    );
}};
source tcp {{
    network(
        ip(127.0.0.1) port({tcp}) transport(tcp)
        flags(syslog-protocol, store-raw-message)
    );
}};
source octets {{
    syslog(ip(127.0.0.1) port({octets}) transport(tcp) flags(store-raw-message));
}};
destination keep {{ file("{folder}/out.jsonl" template(t_json)); }};
log {{ source(udp); destination(keep); }};
log {{ source(tcp); destination(keep); }};
log {{ source(octets); destination(keep); }};
{tls}
"""
_TLS = """\
source tls {{
    syslog(
        ip(127.0.0.1) port({port}) transport(tls) flags(store-raw-message)
        tls(
            cert-file("{chain}") key-file("{key}") ca-file("{ca}")
            peer-verify({verify})
        )
    );
}};
log {{ source(tls); destination(keep); }};
"""


class SyslogNg(Server):
    """One server: UDP, TCP by line, TCP by octet count, TLS (by octet count).

    It listens on TLS when there is an authority; with `demand` a client must have a
    certificate of it.
    """

    def __init__(
        self, folder: Path, authority: Authority | None = None, *, demand: bool = False
    ) -> None:
        self.root = found(debian.SYSLOG_NG)
        self.udp, self.tcp = free_port(), free_port()
        self.octets, self.tls = free_port(), free_port()
        self.authority = authority
        self._demand = demand
        self._lines = Lines(folder / "out.jsonl")
        super().__init__(folder)

    def command(self) -> list[str]:
        """Return the command line."""
        tls = ""
        if self.authority:
            chain, key = self.authority.server()
            verify = "required-trusted" if self._demand else "optional-untrusted"
            ca = self.authority.ca_file
            tls = _TLS.format(port=self.tls, chain=chain, key=key, ca=ca, verify=verify)
        text = _CONFIG.format(
            udp=self.udp,
            tcp=self.tcp,
            octets=self.octets,
            folder=self.folder,
            tls=tls,
        )
        config = self.folder / "syslog-ng.conf"
        config.write_text(text)
        modules = next((self.root / "usr/lib/syslog-ng").glob("3.*"))
        return [
            str(self.root / "usr/sbin/syslog-ng"),
            "--foreground",
            "--no-caps",
            f"--module-path={modules}",
            f"--cfgfile={config}",
            f"--persist-file={self.folder / 'persist'}",
            f"--control={self.folder / 'control'}",
            f"--pidfile={self.folder / 'pid'}",
        ]

    def environment(self) -> dict[str, str]:
        """Return where the libraries are that came along."""
        folders = [
            *sorted((self.root / "usr/lib").glob("*-linux-gnu*")),
            *sorted((self.root / "lib").glob("*-linux-gnu*")),
            self.root / "usr/lib/syslog-ng",
        ]
        return {"LD_LIBRARY_PATH": ":".join(map(str, folders))}

    def answers(self) -> bool:
        """Tell whether it has opened its ports."""
        ports = [self.tcp, self.octets, *([self.tls] if self.authority else [])]
        return all(map(listening, ports)) and udp_is_open(self.udp)

    def messages(self, at_least: int = 0, seconds: float = 10) -> list[Message]:
        """Return the messages, when so many are there."""
        return gather(self._read, at_least, seconds)

    def clear(self) -> None:
        """Forget the messages."""
        self._lines.clear()

    def _read(self) -> list[Message]:
        return [message(line) for line in self._lines.read()]
