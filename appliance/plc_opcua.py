"""OPC UA server: the line as a VisionSystem of OPC 40100-1, for supervision and recipes.

Everything lies behind Basic256Sha256 (signed and encrypted) with a user name; an unencrypted
endpoint for reading alone exists only where the configuration opens it. No reject path.
"""
# asyncua annotates what travels, not what its functions take, and exports by star imports.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

import asyncio
import contextvars
import hashlib
import logging
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
from asyncua import Server, ua
from asyncua.crypto.permission_rules import SimpleRoleRuleset, User, UserRole
from asyncua.crypto.truststore import TrustStore
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions

from appliance.codes import State
from appliance.config import Config
from appliance.config_bus import OpcUa
from appliance.errors import ArtefactError, DeviceError
from appliance.messages import CommandResult, Verdict, Words
from appliance.opcua_users import is_password, read_users, users_file
from appliance.plc_opcua_events import Events
from appliance.plc_opcua_keys import application_uri, key_files, make_keys
from appliance.plc_opcua_methods import Methods
from appliance.plc_opcua_model import Model
from appliance.plc_opcua_sessions import Sessions
from appliance.product_table import load_products
from appliance.projection import Ask
from appliance.recipe import load_recipe
from appliance.words import Bank

MOST_CLIENTS = 20
MOST_SUBSCRIPTIONS = 100
_LOGIN_TRIES = 5
_LOCKED_S = 60.0
_QUEUE = 10_000
_READING = (
    ua.ObjectIds.CreateSessionRequest_Encoding_DefaultBinary,
    ua.ObjectIds.ActivateSessionRequest_Encoding_DefaultBinary,
    ua.ObjectIds.CloseSessionRequest_Encoding_DefaultBinary,
    ua.ObjectIds.CloseSecureChannelRequest_Encoding_DefaultBinary,
    ua.ObjectIds.GetEndpointsRequest_Encoding_DefaultBinary,
    ua.ObjectIds.FindServersRequest_Encoding_DefaultBinary,
    ua.ObjectIds.ReadRequest_Encoding_DefaultBinary,
    ua.ObjectIds.BrowseRequest_Encoding_DefaultBinary,
    ua.ObjectIds.TranslateBrowsePathsToNodeIdsRequest_Encoding_DefaultBinary,
    ua.ObjectIds.CreateSubscriptionRequest_Encoding_DefaultBinary,
    ua.ObjectIds.ModifySubscriptionRequest_Encoding_DefaultBinary,
    ua.ObjectIds.DeleteSubscriptionsRequest_Encoding_DefaultBinary,
    ua.ObjectIds.CreateMonitoredItemsRequest_Encoding_DefaultBinary,
    ua.ObjectIds.ModifyMonitoredItemsRequest_Encoding_DefaultBinary,
    ua.ObjectIds.DeleteMonitoredItemsRequest_Encoding_DefaultBinary,
    ua.ObjectIds.PublishRequest_Encoding_DefaultBinary,
    ua.ObjectIds.RepublishRequest_Encoding_DefaultBinary,
    ua.ObjectIds.SetMonitoringModeRequest_Encoding_DefaultBinary,
    ua.ObjectIds.SetPublishingModeRequest_Encoding_DefaultBinary,
)
"""What nobody need be known for, where anonymous reading is allowed."""
_caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="")

# A client that hangs up or asks nonsense is no warning of ours; its own library logs each of them.
logging.getLogger("asyncua").setLevel(logging.CRITICAL)


class _Rules(SimpleRoleRuleset):
    """Users call and write; the anonymous read. Nobody changes the address space."""

    def __init__(self) -> None:
        super().__init__()
        allowed: dict[UserRole, set[ua.NodeId]] = self._permission_dict
        allowed[UserRole.Anonymous] = {ua.NodeId(number) for number in _READING}
        allowed[UserRole.Admin] = allowed[UserRole.User]

    def check_validity(self, user: User, action_type_id: Any, body: Any) -> bool:
        """Asked before every request, in the task that then carries it out."""
        _caller.set(user.name or "")
        return bool(super().check_validity(user, action_type_id, body))


class _Users:
    """Passwords out of the users' file; a name is locked for a minute after five wrong ones."""

    def __init__(self, path: Path, is_anonymous_allowed: bool) -> None:
        self._path, self._is_anonymous_allowed = path, is_anonymous_allowed
        self._wrong: dict[str, list[float]] = {}
        self.refused = 0

    def get_user(
        self,
        iserver: Any,
        username: str | None = None,
        password: str | bytes | None = None,
        certificate: Any = None,
    ) -> User | None:
        """`certificate` is that of the client's channel; without one the channel is in clear."""
        if username is None:
            return User(role=UserRole.Anonymous) if self._is_anonymous_allowed else None
        text = password.decode(errors="replace") if isinstance(password, bytes) else password or ""
        now_s = asyncio.get_running_loop().time()
        wrong = [at for at in self._wrong.get(username, []) if now_s - at < _LOCKED_S]
        is_known = (
            certificate is not None
            and len(wrong) < _LOGIN_TRIES
            and is_password(read_users(self._path), username, text)
        )
        if is_known:
            self._wrong.pop(username, None)
            return User(role=UserRole.User, name=username)
        self.refused += 1
        if len(self._wrong) < 1000 or username in self._wrong:
            self._wrong[username] = [*wrong, now_s][-_LOGIN_TRIES:]
        return None


class OpcUaServer:
    """A Projection: words and verdicts onto nodes and events, methods into commands."""

    name = "opcua"

    def __init__(self, settings: OpcUa, config: Config, ask: Ask, log: Any) -> None:
        self._settings, self._config, self._ask, self._log = settings, config, ask, log
        self.counters = {"events_lost": 0, "refused_logins": 0}
        self._pending: asyncio.Queue[Verdict] = asyncio.Queue(_QUEUE)
        self._words: tuple[Bank, Words] | None = None
        self._is_silent = True
        self._changed = asyncio.Event()
        self._recipes: dict[int, tuple[str, str]] = {}
        self._in_force = 0, 0
        """Product number and hash of the recipe when these were read."""

    def words(self, image: Bank, words: Words) -> None:
        """The newest count."""
        copy = Bank(image.word_order)
        copy.write(0, image.read(0, 1024))
        self._words, self._is_silent = (copy, words), False
        self._changed.set()

    def verdict(self, verdict: Verdict, image: Bank) -> None:
        """Every one becomes events; what a slow machine cannot send is counted."""
        if self._pending.full():
            self._pending.get_nowait()
            self.counters["events_lost"] += 1
        self._pending.put_nowait(verdict)
        self._changed.set()

    def silent(self) -> None:
        """All values become bad."""
        self._is_silent = True
        self._changed.set()

    async def prepare(self) -> None:
        """Build the address space: some seconds, in which this process does nothing else."""
        settings, keys = self._settings, self._config.keys_dir / "opcua"
        self._users = _Users(users_file(self._config.keys_dir), settings.anonymous == "read_only")
        server = self._server = Server(Sessions(self._users))  # type: ignore[arg-type]
        await server.init()
        server.set_endpoint(f"opc.tcp://{settings.host}:{settings.port}/inspectd")
        server.set_server_name("inspectd")
        await self._secure(server, keys)
        model = self._model = Model(server)
        await model.build()
        configuration = self._configuration_id()
        started_at = datetime.now(timezone.utc)
        self._events = Events(model, configuration)
        await self._events.prepare(server)
        self._methods = Methods(
            model, self._ask_as_caller, lambda: self._recipes, configuration, started_at,
            self._events.safety,
        )  # fmt: skip
        await self._methods.link()
        server.iserver.max_connections = MOST_CLIENTS
        server.iserver.max_subscriptions = MOST_SUBSCRIPTIONS

    async def serve(self) -> None:
        """Listen and show. Raises DeviceError where the port is taken."""
        server, settings = self._server, self._settings
        try:
            await server.start()
        except OSError as err:
            raise DeviceError(f"{settings.host}:{settings.port}: {err}") from err
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                self.counters["refused_logins"] = self._users.refused
                await self._show(self._model, self._methods, self._events)
        finally:
            await server.stop()

    async def _show(self, model: Model, methods: Methods, events: Events) -> None:
        while not self._pending.empty():
            verdict = self._pending.get_nowait()
            methods.keep(verdict)
            await events.verdict(verdict)
        if self._is_silent:
            if not model.is_silent:
                await model.silence()
                await events.silence(True)
            return
        if self._words is None:
            return
        image, words = self._words
        self._words = None
        in_force = image.number("RecipeId"), image.number("RecipeHash32")
        if in_force[0] not in self._recipes or in_force != self._in_force:
            self._recipes, self._in_force = await asyncio.to_thread(self._read_recipes), in_force
        methods.image = image
        if model.is_silent and model.was_shown:
            await events.silence(False)
        await model.show(image, words)
        state = model.state_name(State(image.number("State")))
        await events.words(image, words.notes, state, self._recipes)

    async def _ask_as_caller(self, name: str, argument: str) -> CommandResult:
        if name == "load_recipe":
            self._recipes = await asyncio.to_thread(self._read_recipes)
        return await self._ask(name, argument, f"opcua:{_caller.get() or 'anonymous'}")

    def _read_recipes(self) -> dict[int, tuple[str, str]]:
        """Product number → recipe and its hash; a damaged recipe is listed without a hash."""
        recipes: dict[int, tuple[str, str]] = {}
        for number, name in load_products(self._config).items():
            try:
                recipes[number] = (name, load_recipe(self._config, name).hash)
            except ArtefactError as err:
                self._log.warning("recipe not listed", recipe=name, why=str(err))
                recipes[number] = (name, "")
        return recipes

    def _configuration_id(self) -> Any:
        digest = hashlib.sha256(msgspec.json.encode(self._config)).digest()
        types: Any = ua
        return types.ConfigurationIdDataType(Id="config.toml", Hash=digest, HashAlgorithm="SHA-256")

    async def _secure(self, server: Server, keys: Path) -> None:
        await asyncio.to_thread(make_keys, keys)
        key, certificate = key_files(keys)
        await server.set_application_uri(application_uri())
        await server.load_certificate(certificate)
        await server.load_private_key(key)
        policies = [ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
        tokens: list[type] = [ua.UserNameIdentityToken]
        if self._settings.anonymous == "read_only":
            policies.append(ua.SecurityPolicyType.NoSecurity)
            tokens.append(ua.AnonymousIdentityToken)
        server.set_security_policy(policies, permission_ruleset=_Rules())
        server.set_identity_tokens(tokens)
        if self._settings.clients == "trusted":
            trusted = keys / "trusted"
            trusted.mkdir(mode=0o700, exist_ok=True)
            store = TrustStore([trusted], [])
            await store.load()
            options = CertificateValidatorOptions.TRUSTED_VALIDATION
            server.set_certificate_validator(
                CertificateValidator(options | CertificateValidatorOptions.PEER_CLIENT, store)
            )
