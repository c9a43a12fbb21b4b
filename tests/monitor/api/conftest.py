"""Keys and clients for the tests of the API."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client

from monitor import keys
from monitor.models import ApiKey, Project
from monitor.tenancy import crossing, tenant
from tests.monitor.api import sample_urls

ALL = ("ingest", "read", "operate", "admin")


def now() -> datetime:
    return datetime.now(UTC)


def make_project(name: str) -> Project:
    with crossing():
        return Project.objects.create(name=name)


def make_key(project: Project, scopes: Iterable[str] = ALL, **options: Any) -> tuple[ApiKey, str]:
    with tenant(project.pk):
        return keys.make(project, options.pop("name", "test"), scopes, now=options.pop("at", now()), **options)


def client_with(text: str) -> Client:
    return Client(headers={"authorization": f"Bearer {text}"}, raise_request_exception=False)


@pytest.fixture
def sample_api(settings: Any) -> Iterator[None]:
    settings.ROOT_URLCONF = sample_urls
    # Pages are rendered without having collected their files.
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def project(db: None) -> Project:
    return make_project("north")


@pytest.fixture
def api(sample_api: None, project: Project) -> Client:
    return client_with(make_key(project)[1])


@pytest.fixture
def api_with(sample_api: None, project: Project) -> Callable[..., Client]:
    """A client with a key of these scopes and options."""
    return lambda *scopes, **options: client_with(make_key(project, scopes or ALL, **options)[1])
