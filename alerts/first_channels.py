"""The channels that a new project begins with: the console, and an email address for what is critical."""

from alerts.models import Channel, ChannelKind, Level


def give_channels(project_id: int, *, email: str = "") -> int:
    """Make the default channels that the project does not have; returns how many were made."""
    wanted = [(ChannelKind.CONSOLE, "Console", "", Level.values)]
    if email:
        wanted.append((ChannelKind.EMAIL, "Email", email, [Level.CRITICAL.value]))
    return sum(
        Channel.objects.get_or_create(
            project_id=project_id, name=name, defaults={"kind": kind, "target": target, "levels": levels}
        )[1]
        for kind, name, target, levels in wanted
    )
