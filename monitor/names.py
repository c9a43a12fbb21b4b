"""Names in addresses: an agent's name is any text, slashes and line breaks included."""

from django.urls import register_converter


class AnyName:
    """Matches all that is left of the path."""

    regex = r"[\s\S]+"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


ANY = "any_name"
register_converter(AnyName, ANY)
