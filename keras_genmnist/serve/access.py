"""Who may ask: the names that a server answers to, pages of other origins, a token; and the headers of every answer."""

import base64
import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import tensorflow as tf

from keras_genmnist.errors import UsageError

# Of every answer.  The browser itself refuses what would come from elsewhere, and shows no page of ours in another's.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}
CORS_HEADERS = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "600",
}
# At the second a browser asks for a password; it would overlook it in one header with the first.
CHALLENGES = ('Bearer realm="genmnist"', 'Basic realm="genmnist"')
OPEN = ("/healthz", "/readyz")  # who checks health has no token

HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d*)?")  # RFC 3986's authority, without a user
ORIGIN = re.compile(rf"null|[a-z][a-z0-9+.-]*://{HOST.pattern}")
TOKEN = re.compile(rb"[A-Za-z0-9._~+/=-]{1,4096}")
QUOTED = 80  # characters of a header that an error shows


class Access:
    """What is asked of a request before anything else."""

    def __init__(
        self,
        host: str,
        allow_hosts: Iterable[str] = (),
        allow_origins: Iterable[str] = (),
        token: bytes | None = None,
    ):
        """
        Args:
          host: that the server listens on.
          allow_hosts: names that it answers to beside `host` and localhost; "*" for any.  Where it listens to more than
            its own machine, it answers to every IP address too.
          allow_origins: origins, scheme://host[:port], whose pages may ask; "*" for any.
          token: that requests must bring, but for those of OPEN; None for none.
        Raises:
          UsageError: if a name or an origin is none.
        """
        for name in allow_hosts:
            if name != "*" and not (_is_address(name) or _name_of(name) == name.lower()):
                raise UsageError(
                    f"--allow_host={name} is no name: give it without scheme and port, as digits.example, or * for any"
                )
        for origin in allow_origins:
            if origin != "*" and not ORIGIN.fullmatch(origin.lower()):
                raise UsageError(f"--allow_origin={origin} is no origin: give scheme://host[:port], or * for any")
        # "*" as `host`, for all networks, allows no name.
        named = [name for name in (host, *allow_hosts) if name != "*"]
        self._hosts = {"localhost", *(_address_of(name) or name.lower() for name in named)}
        self._any_host = "*" in allow_hosts
        address = _address_of(host)
        self._on_loopback = host == "localhost" or (address is not None and ipaddress.ip_address(address).is_loopback)
        if self._on_loopback:
            self._hosts |= {"127.0.0.1", "::1"}
        self._origins = {origin.lower() for origin in allow_origins}
        self._token = token

    def admit(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Lets a request pass.

        A name that is not the server's own comes from a page that made its own name stand for the server's address: to
        the browser it is one origin with the server.  No such name is an IP address.  Who sends no name is no browser.

        Args:
          method: of the request.
          path: of the request.
          headers: of the request, by names of any case.
        Raises:
          tf.errors.PermissionDeniedError: if it asks for another host, or comes from a page of another origin.
          tf.errors.UnauthenticatedError: if it does not bring the token.
        """
        host, origin = headers.get("Host"), headers.get("Origin")
        if host is not None and not self._answers_to(_name_of(host)):
            advice = f"--allow_host={_name_of(host) or 'NAME'}"
            message = f"this server does not answer to the host {_quoted(host)}: start it with {_quoted(advice)}"
            raise tf.errors.PermissionDeniedError(None, None, message)
        if (
            origin is not None
            and not self._allows(origin)
            and origin.lower().partition("://")[2] != (host or "").lower()
        ):
            message = (
                f"pages of {_quoted(origin)} may not ask this server: start it with --allow_origin={_quoted(origin)}"
            )
            raise tf.errors.PermissionDeniedError(None, None, message)
        if origin is None and "*" not in self._origins and _is_embedded(headers):
            message = (
                "pages of other origins may not embed this: start the server with --allow_origin, and let them ask by "
                "CORS, as an image with the attribute crossorigin does"
            )
            raise tf.errors.PermissionDeniedError(None, None, message)
        if self._token is None or path in OPEN or self.is_preflight(method, headers):
            return
        if not hmac.compare_digest(_credentials(headers.get("Authorization", "")), self._token):
            message = "this server asks for a token: send the header Authorization: Bearer TOKEN"
            raise tf.errors.UnauthenticatedError(None, None, message)

    def is_preflight(self, method: str, headers: Mapping[str, str]) -> bool:
        """Whether a browser asks if a page of another origin may ask; the headers of the answer tell it so."""
        return (
            method == "OPTIONS" and "Access-Control-Request-Method" in headers and self._allows(headers.get("Origin"))
        )

    def headers(self, origin: str | None) -> dict[str, str]:
        """The headers of any answer to a page of `origin`, or to whoever names none."""
        vary = {"Vary": "Origin"} if self._origins else {}
        cors = CORS_HEADERS | {"Access-Control-Allow-Origin": origin} if self._allows(origin) else {}
        return SECURITY_HEADERS | vary | cors

    def _answers_to(self, name: str | None) -> bool:
        if name is None:
            return False
        return name in self._hosts or self._any_host or (not self._on_loopback and _is_address(name))

    def _allows(self, origin: str | None) -> bool:
        return origin is not None and (origin.lower() in self._origins or "*" in self._origins)


def read_token(path: Path) -> bytes:
    """The token that a file holds.

    Raises:
      UsageError: if it cannot be read, or holds none.
    """
    try:
        with path.open("rb") as file:
            token = file.read(5000).strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read --token_file={path}: {reason}; give a file that holds the token") from error
    if not TOKEN.fullmatch(token):
        raise UsageError(f"--token_file={path} holds no token: give a line of up to 4096 letters, digits and -._~+/=")
    return token


def _is_embedded(headers: Mapping[str, str]) -> bool:
    """Whether a page of another origin asks for an image, a script or a frame of its own, which names no Origin.

    Source: w3.org/TR/fetch-metadata
    """
    is_link = (headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) == ("navigate", "document")
    return headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and not is_link


def _credentials(authorization: str) -> bytes:
    """The token of `Bearer TOKEN`, or the password of what a browser makes of a password."""
    scheme, _, credentials = authorization.partition(" ")
    given = credentials.strip().encode(errors="replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given, validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return given if scheme.lower() == "bearer" else b""


def _name_of(host: str) -> str | None:
    """The name or address in a Host header, without its port; None where it is none."""
    found = HOST.fullmatch(host.strip().lower())
    return found and (_address_of(found[1]) if found[1] else found[2])


def _address_of(name: str) -> str | None:
    """An IP address, with or without brackets, in the one spelling that it has here; None of another name."""
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    return _address_of(name) is not None


def _quoted(text: str) -> str:
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}..."
