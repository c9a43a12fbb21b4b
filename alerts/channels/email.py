"""Email over Django's mail connection, one message and one recipient at a time."""

import smtplib

from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage, get_connection
from django.core.validators import validate_email

from alerts.channels.message import InDoubt, Message, Permanent, Temporary

TIMEOUT_S = 10


def send(message: Message) -> str:
    """The Message-ID. Trouble before the conversation began is Temporary; a line that broke in it is InDoubt."""
    connection = get_connection(timeout=TIMEOUT_S)
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
        raise InDoubt(f"the line broke while sending: {error}") from error
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
