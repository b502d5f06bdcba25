"""Alerts to people, by a mail server that the recipe names: its address is looked up and held to as a webhook's is, its certificate
is checked, and nothing is sent in the clear to another machine."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable
from email.message import EmailMessage

from .alerts import Alert, NotSent
from .spec import EmailSpec
from .webhook import connected


def send(alert: Alert, spec: EmailSpec, secret: Callable[[str], str]) -> None:
    """Raises NotSent, and SpecError where a reference is not set."""
    user = None if spec.user is None else secret(spec.user)
    password = None if spec.password is None else secret(spec.password)
    try:
        server = _Pinned(spec) if spec.tls != "tls" else _PinnedTls(spec)
        with server:
            if spec.tls == "starttls":
                server.starttls(context=ssl.create_default_context())
            if user is not None and password is not None:
                server.login(user, password)
            server.send_message(message(alert, spec))
    except smtplib.SMTPException as error:
        code = getattr(error, "smtp_code", None)
        raise NotSent(
            f"{spec.host} does not take the mail ({type(error).__name__}{f' {code}' if code else ''})"
        ) from None
    except OSError as error:
        raise NotSent(f"{spec.host} does not answer ({type(error).__name__})") from None
    except ValueError as error:  # UnicodeError is one; its words may hold the password
        raise NotSent(
            f"{spec.host} cannot be sent what is written ({type(error).__name__}); user and password may hold ASCII characters alone"
        ) from None


def message(alert: Alert, spec: EmailSpec) -> EmailMessage:
    told = EmailMessage()
    told["From"], told["To"] = spec.sender, ", ".join(spec.to)
    told["Subject"] = f"[luthier] {alert.says}"
    told["Message-ID"] = f"<{alert.id.replace(':', '.').replace('@', '.')}@luthier.invalid>"
    told.set_content("\n".join(alert.lines()) + "\n")
    return told


class _Pinned(smtplib.SMTP):
    def __init__(self, spec: EmailSpec) -> None:
        self._spec = spec
        super().__init__(spec.host, spec.port, timeout=spec.timeout)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return connected(host, port, self._spec.away, timeout)


class _PinnedTls(smtplib.SMTP_SSL):
    def __init__(self, spec: EmailSpec) -> None:
        self._spec = spec
        super().__init__(spec.host, spec.port, timeout=spec.timeout, context=ssl.create_default_context())

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        told = connected(host, port, self._spec.away, timeout)
        context: ssl.SSLContext = self.context
        return context.wrap_socket(told, server_hostname=host)
