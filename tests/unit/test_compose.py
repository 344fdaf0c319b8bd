"""What compose/ promises, held without a Docker engine."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from ruamel.yaml import YAML

from holdfast.embedded.valkey import USERS
from holdfast.settings import EVERY_CLASS, BrokerSettings
from holdfast.up.plan import PROCESSES

COMPOSE = Path(__file__).parents[2] / "compose"
DOCUMENT: dict[str, Any] = YAML(typ="safe").load((COMPOSE / "compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("holdfast-")}
TARGETS = {"platform", "gateway"}
DATABASES = ("postgres", "mongo")
KNOWN = {str(field.alias) for cls in EVERY_CLASS for field in cls.model_fields.values()}
SECRET = {name for cls in EVERY_CLASS for name in cls._may_be_files}
MOUNTED = "/run/secrets/"


def environment(service: dict[str, Any]) -> dict[str, str]:
    """A service's variables."""
    return dict(service.get("environment", {}))


def words(service: dict[str, Any]) -> str:
    """Everything that a service runs, as one text."""
    test = service.get("healthcheck", {}).get("test", [])
    return " ".join([*service.get("entrypoint", []), *service.get("command", []), *test])


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that make-secrets fills, made by a copy of it."""
    folder = tmp_path_factory.mktemp("repository") / "compose"
    folder.mkdir()
    shutil.copy(COMPOSE / "make-secrets", folder)
    subprocess.run([folder / "make-secrets"], check=True, capture_output=True, cwd="/")
    return folder / "secrets"


def read(secrets: Path, name: str) -> str:
    """The value in a secret file."""
    return (secrets / name).read_text().removesuffix("\n")


def test_it_is_a_compose_file() -> None:
    """compose.yml is valid by the Compose specification's own schema."""
    schema = ("--builtin-schema", "vendor.compose-spec")
    command = [sys.executable, "-m", "check_jsonschema", *schema, str(COMPOSE / "compose.yml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", [*PROCESSES, "load"])
def test_the_same_processes_run(name: str) -> None:
    """Every process of `holdfast up` is a service, started by the command of its name."""
    assert SERVICES[name]["command"][:2] == ["holdfast", name]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_checked_or_says_why_not(name: str) -> None:
    """A service has a health check, or a label with the reason why there is none."""
    reason = SERVICES[name].get("labels", {}).get("holdfast.healthcheck", "")
    assert ("test" in SERVICES[name].get("healthcheck", {})) != reason.startswith("none: ")


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_the_least_of_everything(name: str) -> None:
    """No capability, no new privilege, no writable root, no unbounded resource, and never root."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["restart"]
    assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()
    assert service.get("user") in ({None} if name in OURS else {"postgres", "mongodb", "redis"})


def test_only_the_gateway_is_reachable_and_from_this_machine_alone() -> None:
    """One port is published, on 127.0.0.1."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["gateway"]
    assert all(port.startswith("127.0.0.1:") for port in published["gateway"])
    assert not any("network_mode" in service for service in SERVICES.values())


@pytest.mark.parametrize("network", DOCUMENT["networks"])
def test_only_the_gateways_network_has_a_way_out(network: str) -> None:
    """Every network is internal, except the one that has the gateway as its only member."""
    members = [name for name, service in SERVICES.items() if network in service["networks"]]
    assert DOCUMENT["networks"][network].get("internal") is True or members == ["gateway"]


@pytest.mark.parametrize("name", ["worker", "beat", "flower", "gateway"])
def test_only_the_supervisor_reaches_a_database(name: str) -> None:
    """Workers, beat, Flower and the gateway share no network with a database and hold no setting of one."""
    near = {network for database in DATABASES for network in SERVICES[database]["networks"]}
    assert near.isdisjoint(SERVICES[name]["networks"])
    assert not [key for key in environment(SERVICES[name]) if key.startswith(("POSTGRES_", "PG_", "MONGO_"))]


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable of our processes is one that Holdfast reads, and each value is one that it accepts."""
    monkeypatch.chdir(secrets)  # where no `.env` of a developer's lies
    for key, value in environment(SERVICES[name]).items():
        assert key in KNOWN or (key.endswith("_FILE") and key.removesuffix("_FILE") in SECRET), key
        monkeypatch.setenv(key, value.replace(MOUNTED, f"{secrets}/"))
    for cls in EVERY_CLASS:
        cls.load()


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name in SERVICES for key in environment(SERVICES[name])]
)
def test_no_secret_stands_in_the_file(name: str, key: str) -> None:
    """A secret comes as the name of a mounted file; a URL that is written out holds no credentials."""
    value = environment(SERVICES[name])[key]
    if key.endswith("_FILE"):
        assert value.removeprefix(MOUNTED) in SERVICES[name]["secrets"]
    elif "://" in value:
        assert "@" not in urlsplit(value).netloc
    else:
        assert key not in SECRET
        assert not re.search("PASSWORD|SECRET|TOKEN|AUTH", key)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gets_the_secrets_that_it_uses(name: str) -> None:
    """Each secret of a service is named by a variable or by its command; none is unused."""
    used = set(re.findall(rf"{MOUNTED}(\w+)", " ".join([*environment(SERVICES[name]).values()])))
    used |= set(re.findall(rf"{MOUNTED}(\w+)", words(SERVICES[name])))
    assert used == set(SERVICES[name].get("secrets", []))


@pytest.mark.parametrize("name", DOCUMENT["secrets"])
def test_make_secrets_makes_every_secret(name: str, secrets: Path) -> None:
    """Each secret of compose.yml is a file that make-secrets makes, which everybody may read."""
    assert DOCUMENT["secrets"][name] == {"file": f"./secrets/{name}"}
    assert stat.S_IMODE((secrets / name).stat().st_mode) == 0o444
    assert read(secrets, name)


def test_only_the_owner_may_enter_the_folder_of_secrets(secrets: Path) -> None:
    """The folder of the secrets is private, and no two secrets have the same value."""
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    values = [file.read_text() for file in secrets.iterdir()]
    assert len(set(values)) == len(values)


def test_make_secrets_may_be_run_again(secrets: Path) -> None:
    """A second run changes no value, leaves nothing behind, and brings back what was lost."""
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    (secrets / "broker_url").unlink()
    subprocess.run([secrets.parent / "make-secrets"], check=True, capture_output=True)
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before


PASSWORDS = [
    "p@ss/w#rd:1",
    "50%{x}$HOME;`a`",
    "a b\\c'd\"e",
    "?&=+,!*~-._",
    "[x]|<y>^",
    "p\u00e9\U0001f511",
    "%41%2F",
    " leading",
]


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_of_ones_own_arrives_whole(tmp_path: Path, password: str) -> None:
    """Whatever characters a password in compose/secrets has, it is the same in the URL and the ACL file."""
    shutil.copy(COMPOSE / "make-secrets", tmp_path)
    (tmp_path / "secrets").mkdir()
    own = tmp_path / "secrets" / "redis_celery_password"
    own.write_text(f"{password}\n", encoding="utf-8")
    subprocess.run([tmp_path / "make-secrets"], check=True, capture_output=True)
    url = read(own.parent, "broker_url")
    assert unquote(urlsplit(url).password or "") == password
    assert urlsplit(url).hostname == "redis-broker"
    assert unquote(urlsplit(BrokerSettings.load({"BROKER_URL": url}).dsn()).password or "") == password
    digest = hashlib.sha256(password.encode()).hexdigest()
    assert f"user celery on #{digest} " in read(own.parent, "redis_broker_acl")
    assert own.read_text(encoding="utf-8") == f"{password}\n"


@pytest.mark.parametrize(
    "content",
    [b"p w", b"p w\r\n", b"p w\n\n", b"\xef\xbb\xbfp w\n", b"p w \r\n", b"\xef\xbb\xbfp w\t\n\n"],
)
def test_what_an_editor_added_is_taken_away(tmp_path: Path, content: bytes) -> None:
    """A secret that any editor saved is the same for every container, which reads it by its own rules."""
    shutil.copy(COMPOSE / "make-secrets", tmp_path)
    (tmp_path / "secrets").mkdir()
    own = tmp_path / "secrets" / "redis_celery_password"
    own.write_bytes(content)
    subprocess.run([tmp_path / "make-secrets"], check=True, capture_output=True)
    assert own.read_bytes() == b"p w\n"
    assert "celery:p%20w@" in read(own.parent, "broker_url")


def test_a_secret_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A file in UTF-16 is named, and is not made into another password."""
    shutil.copy(COMPOSE / "make-secrets", tmp_path)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "redis_celery_password").write_bytes("p w".encode("utf-16"))
    ran = subprocess.run([tmp_path / "make-secrets"], check=False, capture_output=True, text=True)
    assert ran.returncode != 0
    assert "redis_celery_password is not UTF-8" in ran.stderr


def test_redis_has_the_users_of_holdfast_up(secrets: Path) -> None:
    """The ACL files give each user the rules of `holdfast up`, and the password in its own file."""
    lines = [*read(secrets, "redis_cache_acl").splitlines(), *read(secrets, "redis_broker_acl").splitlines()]
    digests = {
        user: hashlib.sha256(read(secrets, f"redis_{user}_password").encode()).hexdigest() for user in USERS
    }
    assert dict(re.findall(r"^user (\w+) (.+)$", "\n".join(lines), re.MULTILINE)) == {
        "default": "off",
        "health": "on nopass -@all +ping",
        **{user: f"on #{digests[user]} {rules}" for user, rules in USERS.items()},
    }
    assert urlsplit(read(secrets, "broker_url")).password == read(secrets, "redis_celery_password")


def test_the_cache_drops_what_expires_and_the_broker_nothing() -> None:
    """A full cache drops entries, never a fencing token; a full broker refuses, and drops no task."""
    assert "--maxmemory-policy volatile-" in words(SERVICES["redis-cache"])
    assert "--maxmemory-policy noeviction" in words(SERVICES["redis-broker"])


@pytest.mark.parametrize(("name", "suffix"), [("supervisor", ""), ("worker", ":ro"), ("gateway", ":ro")])
def test_one_volume_holds_the_socket(name: str, suffix: str) -> None:
    """Supervisor, worker and gateway see the socket in one volume; only the supervisor may write there."""
    folder = str(Path(environment(SERVICES["supervisor"])["SUPERVISOR_SOCKET"]).parent)
    assert environment(SERVICES[name])["SUPERVISOR_SOCKET"].startswith(f"{folder}/")
    assert SERVICES[name]["volumes"] == [f"socket:{folder}{suffix}"]
    assert f"-m 0700 {folder}" in (COMPOSE / "Dockerfile").read_text()


def stages() -> dict[str, tuple[str, str]]:
    """The Dockerfile's stages: what each starts from, and its lines."""
    text = (COMPOSE / "Dockerfile").read_text().replace("\\\n", "")
    parts = re.split(r"^FROM (\S+) AS (\S+)\n", text, flags=re.MULTILINE)[1:]
    return {name: (base, body) for base, name, body in zip(*[iter(parts)] * 3, strict=True)}


def test_both_images_run_as_one_user_and_not_as_root() -> None:
    """Both images end as one user, who is not root: the supervisor talks to its own uid alone."""
    users = {re.findall(r"^USER (\S+)$", stages()[name][1], re.MULTILINE)[-1] for name in TARGETS}
    assert len(users) == 1
    assert not users.pop().startswith(("0", "root"))


def test_the_gateways_image_is_slim() -> None:
    """The image `gateway` holds the extra `gateway` and no other; the other image holds the rest."""
    assert {service["build"]["target"] for service in OURS.values()} == TARGETS <= stages().keys()
    extras = {name: re.findall(r"\$1\[([\w,]+)\]", body) for name, (_, body) in stages().items()}
    assert extras["gateway-environment"] == ["gateway"]
    assert extras["platform-environment"] == ["supervisor,worker,demo"]


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_an_image_holds_its_own_environment(target: str) -> None:
    """Each image starts from the same base, and copies from the stage that built its environment alone."""
    base, body = stages()[target]
    assert base == "base"
    assert re.findall(r"--from=(\S+)", body) == [f"{target}-environment"]


def test_no_secret_enters_an_image() -> None:
    """The build sees only what it copies, and compose/secrets is not of that."""
    lines = (COMPOSE / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    seen = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert not [path for path in seen if path.startswith("compose")]
    bodies = "".join(body for _, body in stages().values())
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", bodies, re.MULTILINE)
    assert {path for copied in copies for path in copied.split()} == seen
