"""A real SMTP server in this process, which keeps what it got and can be told to misbehave."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from typing import Any

from aiosmtpd.controller import Controller


class Mailbox:
    """`answer` is what DATA is answered with; with `stalled` set, it is never answered.

    `answer_rcpt` is what each recipient is answered with; "" hangs up there.
    """

    def __init__(self) -> None:
        self.answer = "250 OK"
        self.answer_rcpt = "250 OK"
        self.mails: list[Message] = []
        self.stalled = False
        self.got_one = threading.Event()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if self.answer_rcpt.startswith("250"):
            envelope.rcpt_tos.append(address)
        elif not self.answer_rcpt:
            server.transport.abort()
        return self.answer_rcpt

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.answer.startswith("250"):
            self.mails.append(message_from_bytes(envelope.content))
        self.got_one.set()
        while self.stalled:
            await asyncio.sleep(0.05)
        return self.answer


@contextmanager
def mail_server(settings: Any, port: int = 0) -> Iterator[Mailbox]:
    """Mail of the settings goes to this server; on the loopback alone."""
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port or free_port())
    controller.start()
    use(settings, controller.port)
    try:
        yield mailbox
    finally:
        mailbox.stalled = False
        controller.stop()


@contextmanager
def silent_server(settings: Any) -> Iterator[None]:
    """A server that takes every line and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as line:
        use(settings, line.getsockname()[1])
        settings.EMAIL_TIMEOUT = 0.5
        yield


def use(settings: Any, port: int) -> None:
    """Send mail to this port, whether somebody listens there or not."""
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", port


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return line.getsockname()[1]
