"""Email over Django's mail connection, one message and one recipient at a time."""

import smtplib
from threading import Event
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage, get_connection
from django.core.validators import validate_email

from alerts.channels.message import InDoubt, Message, Permanent, Temporary

TIMEOUT_S = 10


def send(message: Message) -> str:
    """The Message-ID. A line that breaks before the server may have the text is Temporary, after that InDoubt."""
    connection = get_connection(timeout=settings.EMAIL_TIMEOUT or TIMEOUT_S)
    message_id = f"<{message.id}@handrail>"
    mail = EmailMessage(
        subject=message.subject,
        body=message.body,
        to=[message.target],
        connection=connection,
        headers={"Message-ID": message_id, "X-Handrail-Alert": message.alert_id, "Auto-Submitted": "auto-generated"},
    )
    try:
        connection.open()
    except smtplib.SMTPAuthenticationError as error:
        raise Permanent(f"the mail server refused our password: {_said(error)}") from error
    except (smtplib.SMTPException, OSError) as error:
        raise Temporary(f"the mail server was not reached: {error}") from error
    handed_over = _watch(connection)
    try:
        mail.send()
    except smtplib.SMTPRecipientsRefused as error:
        code, said = next(iter(error.recipients.values()))
        raise _refused(code, said) from error
    except smtplib.SMTPResponseException as error:
        raise _refused(error.smtp_code, error.smtp_error) from error
    except (smtplib.SMTPNotSupportedError, ValueError) as error:
        raise Permanent(str(error)) from error
    except (smtplib.SMTPException, OSError) as error:
        if handed_over.is_set():
            raise InDoubt(f"the line broke while sending: {error}") from error
        raise Temporary(f"the line broke before anything was sent: {error}") from error
    finally:
        _hang_up(connection)
    return message_id


def objection(target: str) -> str:
    """What is wrong with the address; "" when nothing is."""
    try:
        validate_email(target)
    except ValidationError:
        return "not an email address"
    return ""


def _watch(connection: Any) -> Event:
    """Set once the text of a message is on its way; at once where the connection is none of SMTP, and can't tell."""
    handed_over = Event()
    line = getattr(connection, "connection", None)
    if not isinstance(line, smtplib.SMTP):
        handed_over.set()
        return handed_over
    hand_over = line.data

    def data(text: Any) -> tuple[int, bytes]:
        handed_over.set()
        return hand_over(text)

    line.data = data  # type: ignore[assignment, method-assign]
    return handed_over


def _refused(code: int, said: bytes | str) -> Temporary | Permanent:
    """RFC 5321: 4yz may work later, 5yz will not."""
    text = f"{code} {said.decode(errors='replace') if isinstance(said, bytes) else said}"
    return Temporary(text) if 400 <= code < 500 else Permanent(text)


def _said(error: smtplib.SMTPResponseException) -> str:
    said = error.smtp_error
    return f"{error.smtp_code} {said.decode(errors='replace') if isinstance(said, bytes) else said}"


def _hang_up(connection: object) -> None:
    """Close the line; the outcome is known already, so trouble here changes nothing."""
    try:
        connection.close()  # type: ignore[attr-defined]
    except (smtplib.SMTPException, OSError):
        return
