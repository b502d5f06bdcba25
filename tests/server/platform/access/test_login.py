"""Logging in through a provider of OpenID Connect, and what must not let anybody in: spoilt tokens, others' callbacks, forged requests."""

from __future__ import annotations

import importlib.util
import logging
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from luthier.app import login as logins
from luthier.app import oidc
from luthier.app.login import Login
from luthier.app.site import Site
from luthier.core.errors import SpecError
from luthier.server.openai import Limits
from luthier.server.platform.make import create_platform
from luthier.server.rates import Rate

V = "/luthier/v1"
pytest.importorskip("joserfc", reason="joserfc is not installed (pip install 'luthier[oidc]')")
_found = importlib.util.spec_from_file_location("openid", Path(__file__).parents[3] / "openid.py")
openid = importlib.util.module_from_spec(_found)
_found.loader.exec_module(openid)


def written(provider, **more):
    lines = {"public_url": "http://127.0.0.1:1", **more}
    return (
        "".join(
            f'{name}: "{value}"\n' if isinstance(value, str) else f"{name}: {value}\n"
            for name, value in lines.items()
        )
        + f'providers:\n- {{name: company, issuer: "{provider.url}", client_id: luthier, client_secret: "${{OIDC_SECRET}}"}}\n'
    )


class Browser:
    def __init__(self, site, provider):
        self.site, self.provider = site, provider
        self.client = TestClient(
            create_platform(site, {}, limits=Limits()), base_url="http://127.0.0.1:1", follow_redirects=False
        )

    def begin(self, **told):
        answer = self.client.get(f"{V}/login", params=told)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    def finish(self, back):
        return self.client.get(f"{V}/login/callback", params=back)

    def log_in(self, **who):
        return self.finish(self.provider.log_in(self.begin(), **who))

    def me(self, **headers):
        return self.client.get(f"{V}/me", headers=headers)


@pytest.fixture(scope="module")
def provider():
    with openid.running() as made:
        yield made


def opened(folder, provider):
    site = Site.open({"LUTHIER_HOME": str(folder / "site"), "OIDC_SECRET": openid.SECRET})
    site.found()
    (site.top.home / "login.yaml").write_text(written(provider))
    return site


@pytest.fixture(autouse=True)
def _honest(provider):
    provider.spoil, provider.about, provider.keys = (lambda header, claims: None), {}, [provider.key]


@pytest.fixture
def site(tmp_path, provider):
    return opened(tmp_path, provider)


@pytest.fixture
def browser(site, provider):
    return Browser(site, provider)


@pytest.fixture
def ann(site, provider):
    return invited(site, provider)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, provider):
    """(a site for tests that change nothing, its somebody)"""
    site = opened(tmp_path_factory.mktemp("shared"), provider)
    return site, invited(site, provider)


def invited(site, provider):
    """Somebody who was invited by issuer and subject, a trainer of the first project; and that project."""
    operator = site.operator()
    project = site.accounts.projects(operator)[0]
    user = site.accounts.create_user(
        operator, "person", "Ann", scope=project.id, role="trainer", issuer=provider.url, subject="sub-1"
    )
    return user, project.id


def test_a_person_logs_in_works_and_leaves(site, browser, ann):
    user, project = ann
    answer = browser.log_in()
    assert (answer.status_code, answer.headers["location"]) == (303, f"{V}/me")
    cookie = next(one for one in answer.headers.get_list("set-cookie") if one.startswith("luthier-session="))
    assert {"httponly", "path=/", "samesite=lax"} <= {part.strip().lower() for part in cookie.split(";")}
    me = browser.me().json()
    assert (me["user"], me["key"], me["project"], me["permissions"]) == (user.id, None, None, [])
    assert [one["id"] for one in me["projects"]] == [project]
    inside = {"openai-project": project}
    assert "jobs.write" in browser.me(**inside).json()["permissions"]
    assert browser.client.get(f"{V}/jobs", headers=inside).status_code == 200
    assert browser.client.get(f"{V}/jobs").status_code == 403
    proof = {"x-luthier-csrf": me["csrf"], "origin": "http://127.0.0.1:1"}
    made = browser.client.post(f"{V}/keys", json={"title": "script"}, headers={**inside, **proof})
    assert made.status_code == 201 and made.json()["scope"] == project
    taken = browser.client.cookies["luthier-session"]
    assert browser.client.post(f"{V}/logout", json={}, headers=proof).status_code == 200
    time.sleep(1.05)  # what is remembered
    assert browser.client.get(f"{V}/me", headers={"cookie": f"luthier-session={taken}"}).status_code == 401
    done = [one.entry.action for one in site.top.audit.read(actor=user.id)]
    assert done == ["session.started", "key.created", "session.ended"]


CSRF = {
    "nothing": {}, "origin alone": {"origin": "http://127.0.0.1:1"}, "token alone": {"x-luthier-csrf": "TOKEN"},
    "wrong token": {"origin": "http://127.0.0.1:1", "x-luthier-csrf": "x" * 43}, "empty": {"origin": "http://127.0.0.1:1", "x-luthier-csrf": ""},
    "foreign origin": {"origin": "http://evil.example", "x-luthier-csrf": "TOKEN"}, "null": {"origin": "null", "x-luthier-csrf": "TOKEN"},
}  # fmt: skip


@pytest.mark.parametrize("headers", CSRF.values(), ids=CSRF)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "keys"), ("POST", "logout"), ("DELETE", "keys/aaaaaaaa"), ("PATCH", "projects/x")],
)
def test_a7_requests_that_another_page_makes(shared, provider, headers, method, path):
    site, ann = shared
    browser = Browser(site, provider)
    browser.log_in()
    token = browser.me().json()["csrf"]
    sent = {name: value.replace("TOKEN", token) for name, value in headers.items()}
    answer = browser.client.request(method, f"{V}/{path}", headers={"openai-project": ann[1], **sent})
    assert answer.status_code == 403 and answer.json()["error"]["code"] in ("csrf", "origin_not_allowed")


def test_a7_a_session_is_the_sites_own_cookie(shared, provider):
    browser = Browser(shared[0], provider)
    browser.log_in()
    token = browser.client.cookies["luthier-session"]

    def ask(cookie):
        return (
            TestClient(browser.client.app, base_url="http://127.0.0.1:1")
            .get(f"{V}/me", headers={"cookie": cookie})
            .status_code
        )

    assert ask(f"a=b; luthier-session={token}") == 200
    for cookie in (
        f"luthier-session={token}; luthier-session={token}", f"luthier-session={token}x", "luthier-session=", f"Luthier-Session={token}",
        f"luthier-login={token}", f"luthier-session={'a' * 5_000}", "luthier-session=' OR 1=1 --", f'luthier-session="{token}"',
    ):  # fmt: skip
        assert ask(cookie) == 401, cookie


def test_a7_behind_tls_the_cookie_is_bound_to_the_host(site, provider, ann):
    (site.top.home / "login.yaml").write_text(written(provider, public_url="https://luthier.example"))
    app = create_platform(site, {}, limits=Limits(), allowed_hosts=["luthier.example"])
    client = TestClient(app, base_url="https://luthier.example", follow_redirects=False)
    begun = client.get(f"{V}/login")
    assert "redirect_uri=https%3A%2F%2Fluthier.example%2F" in begun.headers["location"]
    answer = client.get(f"{V}/login/callback", params=provider.log_in(begun.headers["location"]))
    for cookie in (*begun.headers.get_list("set-cookie"), *answer.headers.get_list("set-cookie")):
        assert cookie.startswith("__Host-luthier-") and "Secure" in cookie and "domain" not in cookie.lower()
    assert client.get(f"{V}/me").status_code == 200


def hmac_with_public_key(provider):
    """RS256 told as HS256, the public key as the shared secret."""
    import hashlib
    import hmac

    def spoil(header, claims):
        header["alg"] = "HS256"
        text = openid.bare(header, claims)[:-1]
        digest = hmac.new(provider.key.as_pem(private=False), text.encode(), hashlib.sha256).digest()
        import base64

        return f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"

    return spoil


def with_another_key(provider, **header):
    other = openid.jwk.RSAKey.generate_key(2048, {"kid": "one"})
    return lambda head, claims: provider.sign({**head, **header}, claims, other)


def claim(name, value):
    def spoil(header, claims):
        claims.pop(name) if value is None else claims.update({name: value})

    return spoil


def head(**more):
    return lambda header, claims: openid.bare({**header, **more}, claims, "AAAA")


SPOILT = {
    "alg none": lambda p: lambda h, c: openid.bare({"alg": "none"}, c),
    "alg None": lambda p: lambda h, c: openid.bare({"alg": "nOnE", "kid": "one"}, c),
    "no alg": lambda p: lambda h, c: openid.bare({"kid": "one"}, c, "AAAA"),
    "HS256 with the public key": hmac_with_public_key,
    "another's key": with_another_key,
    "kid of a path": lambda p: with_another_key(p, kid="../../../../dev/null"),
    "kid of an address": lambda p: with_another_key(p, kid="http://127.0.0.1:9/x"),
    "kid in SQL": lambda p: with_another_key(p, kid="one' UNION SELECT 'x"),
    "kid of another kind": lambda p: head(kid={"a": 1}),
    "jku": lambda p: with_another_key(p, jku="http://127.0.0.1:9/keys"),
    "x5u": lambda p: with_another_key(p, x5u="http://127.0.0.1:9/x"),
    "jwk": lambda p: lambda h, c: p.sign({**h, "jwk": openid.jwk.RSAKey.generate_key(2048).as_dict(private=False)}, c, openid.jwk.RSAKey.generate_key(2048)),
    "crit": lambda p: head(crit=["b64"], b64=False),
    "no signature": lambda p: head(),
    "no token": lambda p: lambda h, c: "x",
    "five parts": lambda p: lambda h, c: "a.b.c.d.e",
    "large": lambda p: lambda h, c: "a" * 30_000,
    "wrong aud": lambda p: claim("aud", "another"),
    "many aud, no azp": lambda p: claim("aud", ["luthier", "another"]),
    "azp of another": lambda p: claim("azp", "another"),
    "no aud": lambda p: claim("aud", None),
    "wrong iss": lambda p: claim("iss", "https://evil.example"),
    "iss with a slash": lambda p: claim("iss", p.url + "/"),
    "expired": lambda p: claim("exp", int(time.time()) - 120),
    "exp true": lambda p: claim("exp", True),
    "exp in words": lambda p: claim("exp", "tomorrow"),
    "no exp": lambda p: claim("exp", None),
    "no iat": lambda p: claim("iat", None),
    "issued tomorrow": lambda p: claim("iat", int(time.time()) + 86_400),
    "not before tomorrow": lambda p: claim("nbf", int(time.time()) + 86_400),
    "no nonce": lambda p: claim("nonce", None),
    "another's nonce": lambda p: claim("nonce", "x" * 43),
    "no sub": lambda p: claim("sub", None),
    "sub of another kind": lambda p: claim("sub", ["sub-1"]),
    "sub of an invitation": lambda p: claim("sub", "invited:ann@canary.example"),
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a6_tokens_that_prove_nothing(shared, provider, spoil, caplog):
    browser = Browser(shared[0], provider)
    caplog.set_level(logging.DEBUG)
    provider.spoil = spoil(provider)
    answer = browser.log_in()
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "login_failed"), answer.text
    assert browser.me().status_code == 401
    assert "127.0.0.1:9" not in answer.text
    assert openid.SECRET not in caplog.text and "eyJ" not in "".join(
        r.getMessage() for r in caplog.records if r.name.startswith("luthier")
    )


def test_a6_callbacks_of_others(site, browser, provider, ann):
    back = provider.log_in(browser.begin())
    victim = Browser(site, provider)
    assert victim.finish(back).status_code == 401  # no cookie: another browser began it
    victim.begin()
    assert victim.finish(back).status_code == 401  # and its own login is another one
    for wrong in (
        {**back, "state": "x"},
        {"code": back["code"]},
        {**back, "iss": "https://evil.example"},
        {"state": back["state"]},
    ):
        assert Browser(site, provider).finish(wrong).status_code == 401
    again = Browser(site, provider)
    back = provider.log_in(again.begin())
    secret = again.client.cookies["luthier-login"]
    assert again.finish(back).status_code == 303
    again.client.cookies.set("luthier-login", secret)
    assert (
        again.finish(
            provider.log_in(
                f"{provider.url}/?{'&'.join(f'{k}={v}' for k, v in {'client_id': 'luthier', 'code_challenge_method': 'S256', 'state': back['state']}.items())}"
            )
        ).status_code
        == 401
    )
    doubled = again.client.get(f"{V}/login/callback?code=a&code=b&state=x")
    assert doubled.status_code == 400


def test_a6_a_login_that_takes_too_long(browser, provider, ann, monkeypatch):
    back = provider.log_in(browser.begin())
    monkeypatch.setattr("luthier.store.sessions.LOGIN_S", -1.0)
    assert browser.finish(back).status_code == 401


def test_nobody_lets_himself_in(site, browser, provider, ann):
    """Neither by a subject that nobody invited, nor by the address of somebody who was known by another subject."""
    for who in ({"sub": "sub-2"}, {"sub": "sub-2", "email": "ann@canary.example", "email_verified": True}):
        assert browser.log_in(**who).status_code == 401
    assert len(site.store.accounts.users()) == 2


def test_an_invitation_by_address_is_taken_once_by_a_verified_claim(site, browser, provider):
    operator = site.operator()
    project = site.accounts.projects(operator)[0].id
    user = site.accounts.create_user(
        operator,
        "person",
        "Bea",
        scope=project,
        role="viewer",
        issuer=provider.url,
        email="Bea@Canary.example",
    )
    for who in (
        {"email": "bea@canary.example"}, {"email": "bea@canary.example", "email_verified": "true"}, {"email": "other@canary.example", "email_verified": True},
        {"email": ["bea@canary.example"], "email_verified": True},
    ):  # fmt: skip
        assert browser.log_in(sub="bea-1", **who).status_code == 401
    assert browser.log_in(sub="bea-1", email="BEA@canary.example", email_verified=True).status_code == 303
    assert browser.me().json()["user"] == user.id
    assert (
        Browser(site, provider)
        .log_in(sub="bea-2", email="bea@canary.example", email_verified=True)
        .status_code
        == 401
    )
    assert Browser(site, provider).log_in(sub="bea-1").status_code == 303  # known by the subject from now on


def test_an_invitation_that_nobody_took_is_over(site, browser, provider, monkeypatch):
    project = site.accounts.projects(site.operator())[0].id
    site.accounts.create_user(
        site.operator(),
        "person",
        "Bea",
        scope=project,
        role="viewer",
        issuer=provider.url,
        email="bea@canary.example",
    )
    monkeypatch.setattr(logins, "INVITED_S", -1.0)
    assert browser.log_in(sub="bea-1", email="bea@canary.example", email_verified=True).status_code == 401


def test_sessions_end_by_themselves_and_with_their_user(site, provider, ann):
    (site.top.home / "login.yaml").write_text(written(provider, idle_minutes=0.03, session_hours=0.001))
    browser = Browser(site, provider)
    browser.log_in()
    began_s = time.monotonic()
    while time.monotonic() - began_s < 2.5:  # longer than idle, shorter than all of it: it is used
        assert browser.me().status_code == 200
        time.sleep(0.2)
    time.sleep(3.0)
    assert browser.me().status_code == 401
    (site.top.home / "login.yaml").write_text(written(provider))
    browser = Browser(site, provider)
    browser.log_in()
    assert browser.me().status_code == 200
    site.accounts.end_user(site.operator(), ann[0].id)
    time.sleep(1.05)
    assert browser.me().status_code == 401
    assert browser.log_in().status_code == 401


def test_keys_of_the_provider_change(browser, provider, ann, monkeypatch):
    assert browser.log_in().status_code == 303
    new = openid.jwk.ECKey.generate_key("P-256", {"kid": "two", "use": "sig"})
    provider.keys = [provider.key, new]
    provider.spoil = lambda header, claims: provider.sign({"alg": "ES256", "kid": "two"}, claims, new)
    assert browser.log_in().status_code == 401  # fetched a moment ago, and not at everybody's wish
    monkeypatch.setattr(oidc, "AGAIN_S", 0.0)
    assert browser.log_in().status_code == 303
    short = openid.jwk.RSAKey.generate_key(1024, {"kid": "three"})
    provider.keys = [short]
    provider.spoil = lambda header, claims: provider.sign({"alg": "RS256", "kid": "three"}, claims, short)
    assert browser.log_in().status_code == 401


ABOUT = {
    "another issuer": {"issuer": "https://evil.example"}, "keys over http": {"jwks_uri": "http://evil.example/keys"},
    "a file": {"jwks_uri": "file:///etc/passwd"}, "metadata of a cloud": {"token_endpoint": "http://169.254.169.254/latest"},
    "decimal": {"token_endpoint": "http://2852039166/"}, "mapped": {"token_endpoint": "http://[::ffff:169.254.169.254]/"},
    "userinfo": {"token_endpoint": "http://127.0.0.1:1\\@evil.example/"}, "user": {"jwks_uri": "https://a:b@evil.example/"},
    "line": {"authorization_endpoint": "https://evil.example/\r\nSet-Cookie: a=b"}, "script": {"authorization_endpoint": "javascript:alert(1)"},
    "nothing": {"token_endpoint": None},
}  # fmt: skip


@pytest.mark.parametrize("about", ABOUT.values(), ids=ABOUT)
def test_n1_a_provider_that_sends_us_elsewhere(shared, provider, about):
    browser = Browser(shared[0], provider)
    provider.about = about
    answer = browser.client.get(f"{V}/login")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "login_failed")


def test_n1_addresses_of_a_clouds_credentials_are_not_connected_to():
    for url in ("https://169.254.169.254/x", "https://[fe80::1]/x", "https://0.0.0.0/x"):
        with pytest.raises(oidc.NotProven):
            oidc._fetch(url)


@pytest.mark.parametrize(
    "next",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "javascript:x",
        "/a\r\nb",
        "/" + "a" * 600,
        "",
    ],
)
def test_a7_a_login_leads_back_to_this_server_alone(shared, provider, next):
    browser = Browser(shared[0], provider)
    answer = browser.client.get(f"{V}/login", params={"next": next})
    assert answer.status_code == 400


def test_where_a_login_leads_and_which_provider(site, browser, provider, ann):
    assert browser.finish(provider.log_in(browser.begin(next="/status"))).headers["location"] == "/status"
    assert browser.client.get(f"{V}/login?provider=nobody").status_code == 404
    assert browser.client.get(f"{V}/login?what=x").status_code == 400
    assert Browser(site, provider).client.post(f"{V}/login").status_code == 401


WRONG = {
    "a secret that is written out": ('client_secret: "${OIDC_SECRET}"', 'client_secret: "hunter2"'),
    "half of one": ('"${OIDC_SECRET}"', '"x${OIDC_SECRET}"'),
    "http elsewhere": ("http://127.0.0.1:1", "http://luthier.example"),
    "a path": ("http://127.0.0.1:1", "https://luthier.example/x"),
    "an unknown key": ("client_id", "clientid"),
    "no openid": ("client_id: luthier", "client_id: luthier, scopes: [email]"),
}


@pytest.mark.parametrize(("old", "new"), WRONG.values(), ids=WRONG)
def test_a_file_that_says_what_cannot_be(tmp_path, provider, old, new):
    text = written(provider)
    assert old in text
    site = Site.open({"LUTHIER_HOME": str(tmp_path), "OIDC_SECRET": openid.SECRET})
    (tmp_path / "login.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(SpecError) as said:
        Login.of(site)
    assert "hunter2" not in str(said.value)


def test_a_secret_that_is_not_there_and_an_issuer_over_http(tmp_path, provider):
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site")})
    site.found()
    (site.top.home / "login.yaml").write_text(written(provider))
    with pytest.raises(SpecError, match="OIDC_SECRET"):
        create_platform(site, {})
    (site.top.home / "login.yaml").write_text(written(provider).replace(provider.url, "http://login.example"))
    with pytest.raises(SpecError):
        create_platform(site, {})


def test_e1_nothing_secret_of_a_login_is_kept(site, browser, provider, ann, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    browser.begin()
    begun = browser.client.cookies["luthier-login"]
    verifier = logins.derived(begun, "verifier")
    browser.log_in()
    token = browser.client.cookies["luthier-session"]
    csrf = browser.me().json()["csrf"]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "site").rglob("*") if path.is_file())
    for secret in (begun, verifier, token, csrf, openid.SECRET):
        assert secret.encode() not in kept
        assert secret not in "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("luthier"))
    assert csrf not in repr(site.caller) and token not in repr(browser.client.app)


def test_without_a_file_there_are_keys_alone(tmp_path):
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site")})
    key = site.found()
    with TestClient(create_platform(site, {}), base_url="http://127.0.0.1:1") as client:
        assert client.get(f"{V}/login").status_code == 404
        assert client.get(f"{V}/login/callback").status_code == 404
        assert (
            client.post(f"{V}/logout", json={}, headers={"authorization": f"Bearer {key}"}).status_code == 404
        )
        assert client.get(f"{V}/me", headers={"cookie": "luthier-session=x"}).status_code == 401


def test_who_begins_too_many_logins_is_asked_to_wait(site, provider, monkeypatch):
    monkeypatch.setattr("luthier.server.guard.OF_ADDRESS", Rate(3, 86_400.0))
    client = Browser(site, provider).client
    assert [client.get(f"{V}/login/callback").status_code for _ in range(5)] == [401] * 3 + [429] * 2
    answer = client.get(f"{V}/login")
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    assert client.get("/healthz").status_code == 200


def test_a_provider_that_is_silent_is_not_asked_again_at_once(monkeypatch):
    asked = []

    def silent(url, form=None):
        asked.append(url)
        raise oidc.NotProven("does not answer")

    monkeypatch.setattr(oidc, "_fetch", silent)
    provider = oidc.Provider("https://login.example", "luthier", None)
    for said in ("does not answer", "a moment ago", "a moment ago"):
        with pytest.raises(oidc.NotProven, match=said):
            provider.authorize_url({})
    assert len(asked) == 1
    monkeypatch.setattr(oidc, "SILENT_S", 0.0)
    provider = oidc.Provider("https://login.example", "luthier", None)
    for _ in range(2):
        with pytest.raises(oidc.NotProven, match="does not answer"):
            provider.authorize_url({})


def test_addresses_of_one_ipv6_network_are_counted_together():
    from luthier.server.guard import _address

    told = [_address({"client": (host, 1)}) for host in ("2001:db8::1", "2001:db8::ffff:2", "192.0.2.1", "x")]
    assert told == ["2001:db8::/64", "2001:db8::/64", "192.0.2.1", "x"]
