"""Tokens and TLS at the real services: who has the wrong one, or none, is refused; who has the right one is served."""

from __future__ import annotations

import dataclasses
import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import trustme

from core import errors, rpc, rpc_server
from core.security import Security, Tls, Tokens
from protos import experience_pb2 as pb
from replay_server.service import ExperienceService
from tests.certs import write
from tests.services.experience import DEFINITION, EXPERIENCE, chunk, first_reply, open_request, unroll
from tests.services.serving import DEADLINE_S, Serving

ACTOR, LEARNER, ADMIN, ANY = (f"{word}-token-of-the-tests" for word in ("actor", "learner", "admin", "any"))
SERVED = Tokens(f"actor: {ACTOR}\nlearner: {LEARNER}\nadmin: {ADMIN}\n{ANY}\n")
Serve = Callable[[Security], str]
Call = Callable[[str, Security], rpc.Client]


@pytest.fixture
def serve(serving: Serving) -> Serve:
    """Serve the Experience service at a port of loopback, with `security`; returns the address."""
    return lambda security: serving.listen(EXPERIENCE, ExperienceService(), security, "localhost:0")


@pytest.fixture
def call() -> Iterator[Call]:
    """A client of the address that proves itself with `security`."""
    channels: list[rpc.Channel] = []

    def open_(address: str, security: Security) -> rpc.Client:
        channels.append(rpc.open_channel(address, security=security))
        return rpc.Client(channels[-1], EXPERIENCE, "the server")

    yield open_
    for channel in channels:
        channel.close()


def info(client: rpc.Client) -> int:
    return client.unary("Info", pb.InfoRequest(), pb.InfoReply, DEADLINE_S).protocol


def ensure(client: rpc.Client) -> bool:
    table = pb.TableDefinition(name=DEFINITION.name, settings=DEFINITION.pack())
    request = pb.EnsureTableRequest(protocol=rpc.PROTOCOL, table=table)
    return client.unary("EnsureTable", request, pb.EnsureTableReply, DEADLINE_S).created


def insert(client: rpc.Client) -> None:
    first_reply(client, "Insert", open_request())


def sample(client: rpc.Client) -> None:
    first_reply(
        client, "Sample", pb.SampleRequest(open=pb.SampleOpen(protocol=rpc.PROTOCOL, table=DEFINITION.name, seed=1))
    )


def token(text: str) -> Security:
    return Security(Tokens(text))


def test_each_role_may_do_its_own_and_nothing_else(serve: Serve, call: Call) -> None:
    address = serve(Security(SERVED))
    admin, learner, actor = (call(address, token(text)) for text in (ADMIN, LEARNER, ACTOR))
    assert ensure(admin)
    insert(actor)
    sample(learner)
    for client in (admin, learner, actor):
        assert info(client) == rpc.PROTOCOL
    refused: list[tuple[Callable[[rpc.Client], object], rpc.Client, str]] = [
        (ensure, actor, "EnsureTable needs a token of the role admin; the one that came is good for actor"),
        (ensure, learner, "EnsureTable needs a token of the role admin"),
        (insert, learner, "Insert needs a token of the role actor; the one that came is good for learner"),
        (insert, admin, "Insert needs a token of the role actor"),
        (sample, actor, "Sample needs a token of the role learner"),
        (sample, admin, "Sample needs a token of the role learner"),
    ]
    for action, client, words in refused:
        with pytest.raises(errors.ForbiddenError, match=words):
            action(client)


@pytest.mark.parametrize("name", ["DropTable", "Checkpoint", "Rollback", "EnsureTable", "Info", "Insert", "Sample"])
@pytest.mark.parametrize("given", ["", "a-token-that-nobody-knows"])
def test_no_call_goes_without_a_known_token(serve: Serve, call: Call, name: str, given: str) -> None:
    client = call(serve(Security(SERVED)), token(given) if given else Security())
    actions: dict[str, Callable[[rpc.Client], None]] = {"Insert": insert, "Sample": sample}

    def unary(client: rpc.Client) -> None:
        client.unary(name, getattr(pb, f"{name}Request")(), getattr(pb, f"{name}Reply"), DEADLINE_S)

    with pytest.raises(errors.UnauthenticatedError, match="is not known here" if given else "no token came"):
        actions.get(name, unary)(client)


def test_a_token_without_a_role_is_good_for_all(serve: Serve, call: Call) -> None:
    client = call(serve(Security(SERVED)), token(ANY))
    assert ensure(client)
    insert(client)
    sample(client)


def test_a_client_sends_the_token_of_the_role_that_the_call_needs(serve: Serve, call: Call) -> None:
    client = call(serve(Security(SERVED)), token(f"learner: {LEARNER}\nactor: {ACTOR}\nadmin: {ADMIN}"))
    assert ensure(client)
    insert(client)
    sample(client)


def test_guesses_are_slowed_down_and_the_right_token_is_not(serve: Serve, call: Call) -> None:
    address = serve(Security(SERVED))
    guesser = call(address, token("a-token-that-nobody-knows"))
    refusals = set()
    for _ in range(15):
        with pytest.raises((errors.UnauthenticatedError, errors.RateLimitedError)) as refused:
            info(guesser)
        refusals.add(type(refused.value))
    assert refusals == {errors.UnauthenticatedError, errors.RateLimitedError}
    assert info(call(address, token(ANY))) == rpc.PROTOCOL


def test_tokens_are_exchanged_without_a_restart(serve: Serve, call: Call, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(ACTOR)
    tokens = Tokens(path=file)
    address = serve(Security(tokens))
    client = call(address, token(ADMIN))
    with pytest.raises(errors.UnauthenticatedError):
        info(client)
    (tmp_path / "new").write_text(f"{ACTOR}\n{ADMIN}")
    os.replace(tmp_path / "new", file)
    tokens._next_look_s = 0.0  # a second has passed
    assert info(client) == rpc.PROTOCOL


@pytest.mark.parametrize("stays", [True, False])
def test_a_stream_ends_with_its_token(serve: Serve, call: Call, tmp_path: Path, stays: bool) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"actor: {ACTOR}\nadmin: {ADMIN}")
    tokens = Tokens(path=file)
    address = serve(Security(tokens))
    assert ensure(call(address, token(ADMIN)))
    asked: queue.SimpleQueue[pb.InsertRequest | bytes | None] = queue.SimpleQueue()
    asked.put(open_request())
    replies = call(address, token(ACTOR)).stream("Insert", iter(asked.get, None))
    next(replies)
    (tmp_path / "new").write_text(f"admin: {ADMIN}\nactor: {ACTOR if stays else 'another-token-of-the-tests'}\n")
    os.replace(tmp_path / "new", file)
    tokens._next_look_s = 0.0  # a second has passed
    asked.put(chunk(unroll()))
    if stays:
        next(replies)
    else:
        with pytest.raises(grpc.RpcError) as ended:
            next(replies)
        error = rpc.from_rpc(ended.value, "the server")
        assert isinstance(error, errors.UnavailableError)
        assert "Insert: the token of this stream is good no more" in str(error)
    asked.put(None)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "some.host:7400"])
def test_without_tokens_only_this_machine_is_served(serving: Serving, address: str) -> None:
    async def bind() -> None:
        rpc_server.bind(rpc_server.new_server(), address)

    with pytest.raises(errors.ConfigError, match="without a token anybody could read"):
        serving.loop.call(bind(), DEADLINE_S)


# ------------------------------------------------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder of certificates: of our CA or another one, good or expired."""
    authorities: dict[str, trustme.CA] = {}
    made: dict[tuple[str, int], Path] = {}

    def make(name: str = "ours", days: int = 30) -> Path:
        if (name, days) not in made:
            made[name, days] = tmp_path_factory.mktemp(name)
            write(made[name, days], authorities.setdefault(name, trustme.CA()), days)
        return made[name, days]

    return make


def tls(folder: Path, role: str | None, ca: Path | None = None) -> Tls:
    cert, key = (None, None) if role is None else (folder / f"{role}.pem", folder / f"{role}-key.pem")
    return Tls((ca or folder) / "ca.pem", cert, key)


def test_both_ends_show_their_certificates(serve: Serve, call: Call, certs: Callable[..., Path]) -> None:
    folder = certs()
    address = serve(Security(SERVED, tls(folder, "replay")))
    client = call(address, Security(Tokens(ANY), tls(folder, "actor")))
    assert ensure(client)
    insert(client)


@pytest.mark.parametrize(
    ("who", "client_tls"),
    [
        ("a client without a certificate", lambda certs: tls(certs(), None)),
        ("a client with another CA's certificate", lambda certs: tls(certs("others"), "actor", certs())),
        ("a client that trusts another CA", lambda certs: tls(certs(), "actor", certs("others"))),
        ("a client with an expired certificate", lambda certs: tls(certs(days=-1), "actor", certs())),
    ],
)
def test_who_is_not_trusted_is_refused_with_the_right_token(
    serve: Serve, call: Call, certs: Callable[..., Path], who: str, client_tls: Callable[..., Tls]
) -> None:
    address = serve(Security(SERVED, tls(certs(), "replay")))
    client = call(address, Security(Tokens(ANY), client_tls(certs)))
    with pytest.raises((errors.UnauthenticatedError, errors.UnavailableError)):
        info(client)
    assert info(call(address, Security(Tokens(ANY), tls(certs(), "actor")))) == rpc.PROTOCOL, who


def test_a_servers_expired_certificate_is_refused_at_once(serve: Serve, call: Call, certs: Callable[..., Path]) -> None:
    address = serve(Security(SERVED, tls(certs(days=-1), "replay", certs())))
    client = call(address, Security(Tokens(ANY), tls(certs(), "actor")))
    with pytest.raises(errors.UnauthenticatedError, match="look at --tls-ca"):
        client.unary("Info", pb.InfoRequest(), pb.InfoReply, DEADLINE_S, wait=True)


def test_plain_text_and_tls_do_not_meet(serve: Serve, call: Call, certs: Callable[..., Path]) -> None:
    encrypted, plain = serve(Security(SERVED, tls(certs(), "replay"))), serve(Security(SERVED))
    with pytest.raises(errors.UnavailableError):
        info(call(encrypted, Security(Tokens(ANY))))
    with pytest.raises(errors.UnauthenticatedError, match="does not speak TLS"):
        info(call(plain, Security(Tokens(ANY), tls(certs(), "actor"))))


def test_a_certificate_must_have_the_name_that_is_asked_for(
    serve: Serve, call: Call, certs: Callable[..., Path]
) -> None:
    address = serve(Security(SERVED, tls(certs(), "replay")))
    mine = tls(certs(), "actor")
    assert info(call(address, Security(Tokens(ANY), dataclasses.replace(mine, name="replay")))) == rpc.PROTOCOL
    other = call(address, Security(Tokens(ANY), dataclasses.replace(mine, name="learner")))
    with pytest.raises((errors.UnauthenticatedError, errors.UnavailableError)):
        info(other)


def test_a_server_with_a_ca_alone_has_nothing_to_show(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    with pytest.raises(errors.ConfigError, match="no certificate and key to show"):
        serve(Security(SERVED, Tls(tmp_path / "ca.pem")))
