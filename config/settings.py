"""Settings: one file, every value from the environment, each described in docs/settings.md."""

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict

from config import schedule
from config.environment import Environment, refusal
from launcher.places import Places

env = Environment()
BASE_DIR = Path(__file__).resolve().parent.parent
PLACES = Places.from_environment()

# Identity ------------------------------------------------------------------------------------------

DEBUG = env.bool("HANDRAIL_DEBUG", default=False)


def _secret_key() -> str:
    """The key that signs sessions: HANDRAIL_SECRET_KEY, or the file that the first start made."""
    key = env.str("HANDRAIL_SECRET_KEY", default="")
    if not key and PLACES.secret_key_file.exists():
        key = PLACES.secret_key_file.read_text().strip()
    if not key:
        raise ImproperlyConfigured(
            f"handrail.E001: no secret key. Start once with `make run`, which writes {PLACES.secret_key_file}, "
            "set HANDRAIL_HOME to that of an instance that has one, or HANDRAIL_SECRET_KEY to at least 50 random "
            "characters."
        )
    return key


SECRET_KEY = _secret_key()
PORT = env.int("HANDRAIL_PORT", default=8000)
PUBLIC_URL = env.str("HANDRAIL_PUBLIC_URL", default=f"http://localhost:{PORT}")
ALLOWED_HOSTS = env.list("HANDRAIL_ALLOWED_HOSTS", default=["*"])
CSRF_TRUSTED_ORIGINS = env.list("HANDRAIL_TRUSTED_ORIGINS", default=[])

# Parts ---------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "csp",
    "rest_framework",
    "monitor",
    "alerts",
    "dashboard",
    "config",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
AUTH_USER_MODEL = "monitor.Person"
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "dashboard.frame.frame",
            ],
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# PostgreSQL ----------------------------------------------------------------------------------------
# Sessions take the role `handrail_app`, which row-level security binds to one project at a time.
# Only migrations run as the owner (HANDRAIL_DB_ROLE=owner).

DATABASE_URL = env.str("DATABASE_URL", default=PLACES.database_url)
DB_ROLE = env.str("HANDRAIL_DB_ROLE", default="app")
DB_POOL_SIZE = env.whole("HANDRAIL_DB_POOL", default=0, least=0, most=10_000)
STATEMENT_TIMEOUT_S = env.whole("HANDRAIL_STATEMENT_TIMEOUT_S", default=0, least=0, most=86_400)
KEEP_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


def _database(url: str) -> dict[str, Any]:
    """A libpq URL, unix sockets included, as Django's connection settings."""
    try:
        parts = conninfo_to_dict(url)
    except Exception as error:
        raise ImproperlyConfigured(
            f"handrail.E002: DATABASE_URL is not a PostgreSQL URL: {error}. "
            "Give postgresql://user:password@host:5432/name, or unset it for the embedded server."
        ) from error
    options: dict[str, Any] = {
        k: v for k, v in parts.items() if k not in {"dbname", "user", "password", "host", "port", "options"}
    }
    if DB_ROLE == "app":
        options["options"] = f"{parts.get('options', '')} -c role=handrail_app".strip()
    # Over a network: a server that went away without a word is noticed in less than half a minute.
    options = {"connect_timeout": 3, "tcp_user_timeout": 15_000, **KEEP_ALIVE} | options
    if STATEMENT_TIMEOUT_S:
        limits = f"-c statement_timeout={STATEMENT_TIMEOUT_S}s -c idle_in_transaction_session_timeout=60s"
        options["options"] = f"{limits} {options.get('options', '')}".strip()
    # Django turns the driver's prepared statements off; so high that only what asks for one gets it: the hot paths.
    options["prepare_threshold"] = 2**31
    if DB_POOL_SIZE:
        # Who calls waits 2 s for a connection. An attempt to connect is soon given up, for the next caller begins
        # another: each that goes on would wait longer and longer, also when the server is back.
        options["pool"] = {"min_size": 1, "max_size": DB_POOL_SIZE, "timeout": 2, "reconnect_timeout": 1}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.get("dbname", "handrail"),
        "USER": parts.get("user", ""),
        "PASSWORD": parts.get("password", ""),
        "HOST": parts.get("host", ""),
        "PORT": str(parts.get("port", "")),
        "OPTIONS": options,
        "CONN_MAX_AGE": 0 if DB_POOL_SIZE else 60,
        "CONN_HEALTH_CHECKS": True,  # Of the pool too: a restarted PostgreSQL costs no request an error.
    }


DATABASES = {"default": _database(DATABASE_URL)}

# Backups -------------------------------------------------------------------------------------------

BACKUP_DIR = Path(schedule.BACKUP_DIR).absolute() if schedule.BACKUP_DIR else None
BACKUP_KEEP = env.whole("HANDRAIL_BACKUP_KEEP", default=48, least=1, most=1_000_000)

# Room ----------------------------------------------------------------------------------------------
# Where the database's disk can be seen, how large the database may become (0: no limit), and the shares of either at
# which people are warned and agents' doors shut.


def _disk_path() -> Path | None:
    """A folder on the database's disk; None where that is another machine's."""
    if named := env.str("HANDRAIL_DISK_PATH", default=""):
        if not Path(named).is_dir():
            raise refusal("HANDRAIL_DISK_PATH", named, "a folder of this machine, on the disk of the database")
        return Path(named)
    return PLACES.home if PLACES.database_url == DATABASE_URL else None


def _share(name: str, default: float) -> float:
    percent = env.float(name, default=default)
    if not 1 <= percent <= 100:
        raise refusal(name, env.str(name), "a share in percent, 1 to 100")
    return percent / 100


DISK_PATH = _disk_path()
DB_MAX_BYTES = env.whole("HANDRAIL_DB_MAX_BYTES", default=0, least=0, most=2**63 - 1)
DISK_WARN = _share("HANDRAIL_DISK_WARN", 80)
DISK_STOP = _share("HANDRAIL_DISK_STOP", 95)
if DISK_WARN >= DISK_STOP:
    raise refusal("HANDRAIL_DISK_WARN", env.str("HANDRAIL_DISK_WARN", default="80"), "less than HANDRAIL_DISK_STOP")

# Redis and Celery ----------------------------------------------------------------------------------

REDIS_URL = env.str("REDIS_URL", default=PLACES.redis_url)
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_BEAT_SCHEDULE = schedule.SCHEDULE
CELERY_BEAT_SCHEDULER = "config.beat:Scheduler"
CELERY_BEAT_SCHEDULE_FILENAME = str(PLACES.home / "beat-schedule")
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_DEFAULT_QUEUE = "handrail"
CELERY_TIMEZONE = "UTC"
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "OPTIONS": {"socket_timeout": 1, "socket_connect_timeout": 1},
    }
}

# Time and language ---------------------------------------------------------------------------------

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
USE_I18N = False

# Static files --------------------------------------------------------------------------------------

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage" if DEBUG else "config.files.HashedFiles"
    },
}

# Safety --------------------------------------------------------------------------------------------

# The hash is that of the empty style element that plotly.js makes.
EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF, EMPTY_STYLE],
        "img-src": [SELF, "data:", "blob:"],
        "object-src": [NONE],
        "base-uri": [SELF],
        "frame-ancestors": [NONE],
        "form-action": [SELF],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
HTTPS = env.bool("HANDRAIL_HTTPS", default=PUBLIC_URL.startswith("https://"))
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_ENGINE = "config.sessions"
SESSION_COOKIE_NAME = "handrail_session"
CSRF_COOKIE_NAME = "handrail_csrf"
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "monitor.api.problems.csrf_failure"
LOGIN_URL = "/sign-in"
LOGIN_REDIRECT_URL = "/"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# Limits --------------------------------------------------------------------------------------------

MIB = 1024 * 1024
MAX_BODY_BYTES = env.whole("HANDRAIL_MAX_BODY_BYTES", default=5 * MIB, least=1024, most=1024 * MIB)
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
# Exporters send as many spans at once as they hold, however long each is, and never again what was too large.
MAX_OTLP_BYTES = env.whole(
    "HANDRAIL_MAX_OTLP_BYTES", default=max(16 * MIB, MAX_BODY_BYTES), least=1024, most=1024 * MIB
)
LARGEST_BODY_BYTES = max(MAX_BODY_BYTES, MAX_OTLP_BYTES)
STANDBY = env.bool("HANDRAIL_STANDBY", default=True)
WEB_THREADS = env.whole("HANDRAIL_WEB_THREADS", default=10, least=1, most=1000)
INGEST_THREADS = env.whole("HANDRAIL_INGEST_THREADS", default=6, least=1, most=1000)
MOST_WAITING = env.whole("HANDRAIL_MOST_WAITING", default=200, least=1, most=1_000_000)
MOST_LISTENING = env.whole("HANDRAIL_MOST_LISTENING", default=2000, least=1, most=1_000_000)
MOST_WAITING_BYTES = max(
    env.whole("HANDRAIL_MOST_WAITING_BYTES", default=64 * MIB, least=0, most=2**40), 2 * LARGEST_BODY_BYTES
)
# What those hold together whom a web process doesn't know yet, and how much of one body: of a larger one it is asked
# first whose it is.
STRANGERS_BYTES = MOST_WAITING_BYTES // 8
STRANGER_BYTES = 64 * 1024
MAX_WAIT_S = env.float("HANDRAIL_MAX_WAIT_S", default=25.0)
GENERAL_PER_MINUTE = env.whole("HANDRAIL_RATE_GENERAL", default=100, least=0, most=1_000_000_000)
METRICS_TOKEN = env.str("HANDRAIL_METRICS_TOKEN", default="")
INGEST_PER_MINUTE = env.whole("HANDRAIL_RATE_INGEST", default=6000, least=0, most=1_000_000_000)

# Budgets of a new project ---------------------------------------------------------------------------


def _usd(name: str) -> Decimal | None:
    """An amount of US dollars from the environment; None where it is not set."""
    text = env.str(name, default="")
    if not text:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not (amount.is_finite() and 0 <= amount <= 1_000_000):
        raise ImproperlyConfigured(f"handrail.E007: {name} is {text!r}. Give US dollars, 0 to 1000000, such as 500.")
    return amount


DEPARTMENTS = ("Sales", "Marketing", "Operations", "Support")
DAILY_BUDGET_USD = _usd("DAILY_BUDGET")
DEPARTMENT_BUDGETS_USD = {
    name: amount for name in DEPARTMENTS if (amount := _usd(f"{name.upper()}_BUDGET")) is not None
}

# Mail ----------------------------------------------------------------------------------------------


def _mail() -> dict[str, Any]:
    try:
        return dict(env.email_url("EMAIL_URL", default="consolemail://"))
    except (ImproperlyConfigured, ValueError):
        raise refusal("EMAIL_URL", env.str("EMAIL_URL"), "smtp+tls://user:password@host:587 or the like") from None


EMAIL_CONFIG = _mail()
vars().update(EMAIL_CONFIG)
DEFAULT_FROM_EMAIL = env.str("ALERT_EMAIL_FROM", default="handrail@localhost")
ALERT_EMAIL_TO = env.str("CEO_EMAIL", default="")

# Django REST framework -----------------------------------------------------------------------------

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "UNAUTHENTICATED_USER": None,
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "config.logs.Lines", "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        # A line for each request that we send, or that a client got wrong, is too much.
        "httpx": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        # Their own handlers would tell in other words what goes wrong, and more than is asked for.
        "django": {"handlers": []},
        "uvicorn": {"handlers": [], "level": "NOTSET", "propagate": True},
        # What stands below a logger that is named here would be opened with it.
        "uvicorn.access": {"handlers": [], "propagate": False},
    },
    "root": {"handlers": ["stderr"], "level": env.str("HANDRAIL_LOG_LEVEL", default="INFO")},
}
