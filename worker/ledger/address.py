"""Where the server is: one URL, as redis-py wants it, as Celery does, and as people may see it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from ..errors import UsageFault
from ..private_server import with_server
from ..settings import Settings

SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+socket": "unix",
}
"""What a URL may begin with, and what redis-py calls it. The last is Celery's name for unix://."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server, taken apart. Nothing in it is percent-encoded.

    scheme: redis, rediss (TLS) or unix. place: the host and port as written, or the socket's path.
    options: the URL's query without the database: what redis-py takes, ``ssl_certfile`` for one.
    """

    scheme: str
    place: str
    db: int = 0
    username: str | None = None
    password: str | None = None
    options: Mapping[str, str] | None = None

    @property
    def for_redis(self) -> str:
        """The URL that redis-py takes."""
        options = dict(self.options or {})
        if self.scheme == "unix":
            return self._url("unix", quote(self.place), options | {"db": str(self.db)})
        return self._url(self.scheme, f"{self.place}/{self.db}", options)

    @property
    def for_broker(self) -> str:
        """The URL that Celery's transport takes: of the options it knows those of TLS only.

        Without any of them it would take every certificate, so there is always one.
        """
        if self.scheme == "unix":
            options = {"virtual_host": str(self.db)}
            return self._url("redis+socket", quote(self.place), options)
        tls = {name: text for name, text in (self.options or {}).items() if name[:4] == "ssl_"}
        if self.scheme == "rediss":
            tls.setdefault("ssl_cert_reqs", "required")
        return self._url(self.scheme, f"{self.place}/{self.db}", tls)

    def _url(self, scheme: str, place: str, options: Mapping[str, str]) -> str:
        login = quote(self.username or "", safe="")
        if self.password is not None:
            login += ":" + quote(self.password, safe="")
        query = "?" + urlencode(options) if options else ""
        return f"{scheme}://{login}{'@' if login else ''}{place}{query}"


def server_address(settings: Settings) -> Address:
    """The configured server, with what the settings add to its URL; else the private one, if up.

    Raises UsageFault for a URL that makes no sense, ServerError where there is no server.
    """
    url = with_server(settings).redis_url
    assert url is not None
    address = _with_tls(parse_address(url, origin(settings, "redis_url")), settings)
    username = address.username or settings.redis_username
    password = address.password
    if password is None and settings.redis_password is not None:
        password = settings.redis_password.get_secret_value()
    return replace(address, username=username, password=password)


def broker_url(settings: Settings) -> str:
    """What Celery connects to: ``settings.broker_url`` if given, else the same server as ours.

    A broker that is no Redis is handed on as it is.
    """
    given = settings.broker_url
    if given is None:
        return server_address(settings).for_broker
    if given.partition("://")[0] not in SCHEMES:
        return given
    return _with_tls(parse_address(given, origin(settings, "broker_url")), settings).for_broker


def parse_address(url: str, source: str = "") -> Address:
    """Take a URL apart. source: where it was set, for the message of the UsageFault."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        fault = "it must begin with redis://, rediss:// (TLS) or unix:///"
        raise UsageFault(_complaint(url, source, fault))
    try:
        parts = urlsplit(url)
        if parts.port == 0:
            raise ValueError
    except ValueError:
        raise UsageFault(
            _complaint(
                url,
                source,
                "its host or port makes no sense; write /, @, :, ? and # in a "
                "password as %2F, %40, %3A, %3F and %23",
            )
        ) from None
    options = dict(parse_qsl(parts.query))
    place = parts.netloc.rpartition("@")[2]
    path = unquote(parts.path)
    if SCHEMES[scheme] == "unix":
        db = options.pop("virtual_host", options.pop("db", "0"))
        if place or path in ("", "/"):
            raise UsageFault(_complaint(url, source, "it needs an absolute path: unix:///folder/x"))
        place = path
    else:
        db = options.pop("db", path.strip("/") or "0")
        place = place or "localhost"
    if not re.fullmatch("[0-9]{1,6}", db):
        raise UsageFault(_complaint(url, source, f"a database is a number, not {db!r}"))
    return Address(
        SCHEMES[scheme],
        place,
        int(db),
        unquote(parts.username or "") or None,
        None if parts.password is None else unquote(parts.password),
        options,
    )


def masked(url: str) -> str:
    """The URL without its passwords, to be shown; it need not be a valid one."""
    shown = re.sub(r"://([^:@/?]*):.*@", r"://\1:***@", url, count=1, flags=re.DOTALL)
    return re.sub(r"([?&](?:\w*_)?password=)[^&]*", r"\1***", shown)


def origin(settings: Settings, name: str) -> str:
    """Where a setting came from, " (from …)" to be put into a message; empty for a default and a flag."""
    source = settings.origins.get(name, "default")
    return "" if source in ("default", "flag") else f" (from {source})"


def _with_tls(address: Address, settings: Settings) -> Address:
    if address.scheme != "rediss" or settings.tls_ca_file is None:
        return address
    return replace(
        address, options={"ssl_ca_certs": str(settings.tls_ca_file)} | dict(address.options or {})
    )


def _complaint(url: str, source: str, fault: str) -> str:
    return f"the server's URL {masked(url)}{source} is no use: {fault}"
