"""Who may ask: hosts, origins, a token; and the headers of every answer."""

import base64

import prometheus_client
import pytest

from keras_genmnist.errors import UsageError
from keras_genmnist.serve.access import Access, read_token
from keras_genmnist.serve.app import create_app
from keras_genmnist.serve.batching import Places
from keras_genmnist.serve.servables import Repository
from tests import toy

TOKEN = "c2VjcmV0LXRva2Vu.-_~+/=="
PAGE = "https://digits.example:8443"
PREFLIGHT = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "toy"
    toy.save(folder)
    repository = Repository([folder], lambda rows: None)
    repository.refresh()
    return repository


@pytest.fixture(scope="module")
def client_of(repository):
    """Makes a client of an application with the Access that the arguments make."""
    return lambda *arguments, **more: create_app(
        repository, Places(2), prometheus_client.CollectorRegistry(), Access(*arguments, **more)
    ).test_client()


def assert_refused(response, status: int, *parts: str) -> None:
    assert response.status_code == status
    assert response.content_type == "application/json"
    assert response.json.keys() == {"error"}
    error = response.json["error"]
    assert all(part in error for part in parts), error
    assert "\n" not in error and len(error) < 300
    assert_secure(response)


def assert_secure(response) -> None:
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    policy = response.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= {*policy}
    assert not any("unsafe" in part or "*" in part for part in policy)


# Hosts: what the server listens on, a Host header, whether it is answered.
HOSTS = [
    ("127.0.0.1", "localhost", True),
    ("127.0.0.1", "LOCALHOST:8501", True),
    ("127.0.0.1", "127.0.0.1:1", True),
    ("127.0.0.1", "[::1]:8501", True),
    ("127.0.0.1", "[::1]", True),
    ("localhost", "127.0.0.1:8501", True),
    ("::1", "[0:0:0:0:0:0:0:1]:8501", True),
    ("127.0.0.7", "127.0.0.7:8501", True),
    ("127.0.0.1", "evil.example", False),
    ("127.0.0.1", "evil.example:8501", False),
    ("127.0.0.1", "localhost.evil.example", False),
    ("127.0.0.1", "127.0.0.1.evil.example", False),
    ("127.0.0.1", "evil.example, localhost", False),  # two headers
    ("127.0.0.1", "localhost@evil.example", False),
    ("127.0.0.1", "192.168.1.5:8501", False),
    ("127.0.0.1", "0.0.0.0:8501", False),
    ("127.0.0.1", "", False),
    ("127.0.0.1", "[::1", False),
    ("127.0.0.1", "[x]y", False),
    ("127.0.0.1", "\u00b2\u00b2", False),
    ("127.0.0.1", "a" * 5000, False),
    # A probe, and what docker -p forwards, come with an address; a page that rebinds its name, with that name.
    ("0.0.0.0", "localhost:8501", True),
    ("0.0.0.0", "127.0.0.1:8501", True),
    ("0.0.0.0", "10.1.2.3:8501", True),
    ("::", "[fd00::3]:8501", True),
    ("0.0.0.0", "evil.example:8501", False),
    ("192.168.1.5", "192.168.1.5:8501", True),
    ("my.machine", "my.machine:8501", True),
    ("my.machine", "evil.example", False),
    ("*", "10.1.2.3:8501", True),  # which listens as 0.0.0.0 does, and allows no more
    ("*", "evil.example", False),
]


@pytest.mark.parametrize(("listens", "host", "answered"), HOSTS)
def test_only_own_hosts_are_answered(client_of, listens, host, answered):
    client = client_of(listens)
    for path in ("/healthz", "/readyz", "/", "/metrics", "/v1/models/toy", "/nothing"):
        response = client.get(path, headers={"Host": host})
        if answered:
            assert response.status_code == (404 if path == "/nothing" else 200), path
            assert_secure(response)
        else:
            assert_refused(response, 403, "does not answer to the host", "--allow_host=")


def test_host_that_is_refused_is_named_with_what_would_allow_it(client_of):
    response = client_of("127.0.0.1").get("/", headers={"Host": "Digits.example:8501"})
    assert_refused(response, 403, "the host Digits.example:8501: start it with --allow_host=digits.example")


@pytest.mark.parametrize("allowed", ["digits.example", "DIGITS.example", "*"])
def test_further_hosts_can_be_allowed(client_of, allowed):
    client = client_of("127.0.0.1", ["genmnist", allowed])
    for host in ("genmnist", "digits.example:443", "localhost"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200
    status = client.get("/healthz", headers={"Host": "other.example"}).status_code
    assert status == (200 if allowed == "*" else 403)


@pytest.mark.parametrize("name", ["", "http://x", "x:80", "x/y", "*.example", "a b", "[::1", "x,y", "[::1]:80"])
def test_host_to_allow_that_is_none_is_a_usage_error(name):
    with pytest.raises(UsageError, match=r"--allow_host=.* is no name: give it without scheme and port"):
        Access("127.0.0.1", [name])


def test_address_to_allow_is_one_however_it_is_written(client_of):
    client = client_of("127.0.0.1", ["fd00:0::3"])
    assert client.get("/healthz", headers={"Host": "[FD00::3]:8501"}).status_code == 200


# Origins


def test_pages_of_other_origins_are_refused(client_of):
    client = client_of("127.0.0.1")
    for origin in (PAGE, "null", "http://localhost", "http://localhost:8502", "https://evil.example", "x", ""):
        headers = {"Origin": origin, "Host": "localhost:8501"}
        response = client.post("/v1/models/toy:predict", data='{"inputs": [1]}', headers=headers)
        assert_refused(response, 403, f"pages of {origin} may not ask", f"--allow_origin={origin}")
        assert not any(name.startswith("Access-Control") for name, _ in response.headers)
        preflight = client.options("/v1/models/toy:predict", headers=PREFLIGHT | headers)
        assert_refused(preflight, 403, "--allow_origin=")


@pytest.mark.parametrize(
    ("site", "mode", "dest", "answered"),
    [
        ("cross-site", "no-cors", "image", False),
        ("same-site", "no-cors", "script", False),
        ("cross-site", "navigate", "iframe", False),
        ("cross-site", "navigate", "document", True),
        ("same-origin", "no-cors", "image", True),
        ("none", "navigate", "document", True),
    ],
)
def test_pages_of_other_origins_embed_nothing(client_of, site, mode, dest, answered):
    sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    for origins in ([], [PAGE]):
        response = client_of("127.0.0.1", allow_origins=origins).get("/v1/models/toy", headers=sent)
        if answered:
            assert response.status_code == 200
        else:
            assert_refused(response, 403, "pages of other origins may not embed this", "--allow_origin", "crossorigin")
    assert client_of("127.0.0.1", allow_origins=["*"]).get("/v1/models/toy", headers=sent).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8501", "http://localhost:8501"),
        ("[::1]:8501", "http://[::1]:8501"),
        ("localhost", "https://LOCALHOST"),
    ],
)
def test_own_pages_are_answered(client_of, host, origin):
    headers = {"Host": host, "Origin": origin}
    response = client_of("127.0.0.1").post("/v1/models/toy:predict", data='{"inputs": [1]}', headers=headers)
    assert response.json == {"outputs": [2.5]}
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("allowed", [PAGE, PAGE.upper(), "*"])
def test_pages_of_an_allowed_origin_are_answered_and_can_read_errors(client_of, allowed):
    client = client_of("127.0.0.1", allow_origins=["http://other.example", allowed])
    for body, status in (('{"inputs": [1]}', 200), ("{", 400)):
        response = client.post("/v1/models/toy:predict", data=body, headers={"Origin": PAGE})
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert response.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in response.headers  # no page acts with the password of a browser
        assert_secure(response)
    without = client.get("/v1/models/toy")
    assert (without.status_code, without.headers["Vary"]) == (200, "Origin")
    assert "Access-Control-Allow-Origin" not in without.headers
    stranger = client.get("/v1/models/toy", headers={"Origin": "http://stranger.example"})
    assert stranger.status_code == (200 if allowed == "*" else 403)


def test_preflight_is_answered(client_of):
    for path in ("/v1/models/toy:predict", "/v1/models/toy", "/metrics"):
        response = client_of("127.0.0.1", allow_origins=[PAGE], token=b"x").options(path, headers=PREFLIGHT)
        assert (response.status_code, response.data) == (204, b"")
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        allowed = response.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert {"content-type", "authorization"} <= {*allowed}
        assert_secure(response)


def test_options_that_are_no_preflight_are_as_before(client_of):
    client = client_of("127.0.0.1", allow_origins=[PAGE])
    assert client.options("/v1/models/toy").status_code == 400
    assert client.options("/v1/models/toy", headers={"Origin": PAGE}).status_code == 400
    del (without := dict(PREFLIGHT))["Origin"]
    assert client.options("/v1/models/toy", headers=without).status_code == 400


@pytest.mark.parametrize(
    "origin", ["", "digits.example", "https://", "https://x/", "https://x/y", "https://a b", "nul"]
)
def test_origin_to_allow_that_is_none_is_a_usage_error(origin):
    with pytest.raises(UsageError, match=r"--allow_origin=.* is no origin: give scheme://host\[:port\], or \* for any"):
        Access("127.0.0.1", allow_origins=[origin])


# The token


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


WRONG = ["", TOKEN, f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Bearer {TOKEN.upper()}", "Bearer", "Bearer \u00e9"]
WRONG += [f"Digest {TOKEN}", basic("", TOKEN[:-1]), basic(TOKEN, ""), "Basic \u00e9", "Basic", f"Basic {TOKEN}"]
ASKED = [
    "/",
    "/static/explorer.js",
    "/metrics",
    "/explorer/models",
    "/v1/models/toy",
    "/nothing",
    "/healthz/",
]


@pytest.mark.parametrize("authorization", WRONG)
def test_without_the_token_only_health_is_told(client_of, authorization):
    client = client_of("127.0.0.1", token=TOKEN.encode())
    headers = {"Authorization": authorization} if authorization else {}
    for path in ASKED:
        response = client.get(path, headers=headers)
        assert_refused(response, 401, "send the header Authorization: Bearer TOKEN")
        # Chromium overlooks the second of two in one header.
        assert [value.split()[0] for value in response.headers.getlist("WWW-Authenticate")] == ["Bearer", "Basic"]
        assert TOKEN not in response.text
    assert client.post("/v1/models/toy:predict", data='{"inputs": [1]}', headers=headers).status_code == 401
    for path in ("/healthz", "/readyz"):
        assert client.get(path, headers=headers).text == "ok"


@pytest.mark.parametrize("authorization", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic("", TOKEN), basic("a", TOKEN)])
def test_the_token_opens_all(client_of, authorization):
    client = client_of("127.0.0.1", token=TOKEN.encode())
    headers = {"Authorization": authorization}
    for path in ASKED[:5]:
        assert client.get(path, headers=headers).status_code == 200
    assert client.post("/v1/models/toy:predict", data='{"inputs": [1]}', headers=headers).json == {"outputs": [2.5]}


def test_token_is_read_from_a_file(tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token") == TOKEN.encode()


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"a\nb", b"\xff", "\u00e9".encode(), b"a" * 4097])
def test_file_without_a_token_is_a_usage_error(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match=r"--token_file=.*token holds no token: give a line"):
        read_token(tmp_path / "token")


def test_token_file_that_cannot_be_read_is_a_usage_error(tmp_path):
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file"), (tmp_path / "\0", "null")):
        with pytest.raises(UsageError, match=rf"cannot read --token_file=.*{reason}.*; give a file"):
            read_token(path)
