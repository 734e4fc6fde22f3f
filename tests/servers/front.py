"""nginx in front of a plain HTTP server: TLS, passwords, keys, client certificates."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

from tests.servers import absent, free_port, program
from tests.servers.process import Process, listening
from tests.servers.tls import Authority

_CONFIGURATION = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  map_hash_bucket_size 1024;
  map $http_authorization $known {{
{known}
  }}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {chain};
    ssl_certificate_key {key};
{client}
    if ($known = 0) {{ return 401; }}
    location / {{
      proxy_pass http://127.0.0.1:{upstream};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


def basic(user: str, password: str) -> str:
    """Return the Authorization header of a user."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def api_key(identifier: str, key: str) -> str:
    """Return the Authorization header of an Elasticsearch API key."""
    return "ApiKey " + base64.b64encode(f"{identifier}:{key}".encode()).decode()


class Front:
    """https://127.0.0.1:port, which lets pass whom it knows, and else answers 401.

    `known` are whole Authorization headers; without any, everybody may pass.
    With `client_certificate` one of the authority's is asked for (else: 400).
    """

    def __init__(
        self,
        folder: Path,
        upstream: int,
        authority: Authority,
        known: Iterable[str] = (),
        *,
        client_certificate: bool = False,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        nginx = program("nginx", "/usr/sbin/nginx")
        if nginx is None:
            absent("nginx")
        folder.mkdir(parents=True, exist_ok=True)
        headers = list(known)
        lines = [f"    default {int(not headers)};"]
        lines += [f'    "{header}" 1;' for header in headers]
        client = f"""\
    ssl_verify_client on;
    ssl_client_certificate {authority.ca_file};"""
        chain, key = authority.server()
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=folder,
                port=self.port,
                upstream=upstream,
                chain=chain,
                key=key,
                known="\n".join(lines),
                client=client if client_certificate else "",
            )
        )
        self.process = Process(
            [nginx, "-c", configuration, "-e", folder / "error.log"],
            folder / "nginx.log",
        )
        self.process.wait(lambda: listening(self.port))

    def stop(self) -> None:
        """End it."""
        self.process.stop()
