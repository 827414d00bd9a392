"""One way to an API server: address, identity, and how the two prove themselves to each other."""

import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from socadapter_api.errors import ClusterNotConfigured


@dataclass(frozen=True, slots=True)
class Connection:
    """One way to an API server. Certificates and keys are PEM text; an empty `ca` means the system's authorities."""

    server: str
    ca: str = ""
    token: str = field(default="", repr=False)
    client_certificate: str = field(default="", repr=False)
    client_key: str = field(default="", repr=False)
    insecure: bool = False
    server_name: str = ""
    proxy: str = ""
    namespace: str = "default"

    @property
    def channel(self) -> tuple[str, ...]:
        """What a connection pool depends on; the token is not part of it."""
        return (
            self.server, self.ca, self.client_certificate, self.client_key, str(self.insecure), self.server_name,
            self.proxy,
        )  # fmt: skip

    def ssl_context(self) -> ssl.SSLContext:
        """Verifies the server, unless insecure, and shows the client's certificate where there is one.

        Raises:
            ClusterNotConfigured: a certificate or key is not PEM.
        """
        try:
            context = ssl.create_default_context(cadata=self.ca or None)
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.client_certificate:
                self._show_certificate(context)
        except (ssl.SSLError, ValueError) as error:
            raise ClusterNotConfigured(
                f"the certificates for {self.server} cannot be used: {error}; they must be PEM, and the key that of the"
                " certificate"
            ) from error
        return context

    def _show_certificate(self, context: ssl.SSLContext) -> None:
        with tempfile.TemporaryDirectory() as folder:  # the ssl module takes a chain from files only
            chain = Path(folder) / "chain.pem"
            chain.touch(mode=0o600)
            chain.write_text(f"{self.client_certificate}\n{self.client_key}\n", encoding="ascii")
            context.load_cert_chain(chain)
