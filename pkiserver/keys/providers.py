"""All configured places for keys, opened together: what works is used, what does not is reported by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.executor import Executor, running_reactor
from pkiserver.keys.faults import FaultKind, KeyProblem, KeyUnavailable, naming
from pkiserver.keys.handle import KeyHandle
from pkiserver.keys.pkcs11.module import Module, describe
from pkiserver.keys.pkcs11.token import Token, TokenInfo
from pkiserver.keys.recovery import Watcher
from pkiserver.keys.settings import ProviderSettings, SoftwareStoreSettings, TokenSettings
from pkiserver.keys.software import SoftwareStore

Provider = Token | SoftwareStore


class Providers:
    """Tokens and software stores by name."""

    def __init__(self, reactor: Any = None) -> None:
        self._reactor = reactor or running_reactor()
        self._by_name: dict[str, Provider] = {}
        self._dead: dict[str, KeyProblem] = {}
        self._watchers: dict[int, Watcher] = {}
        self._modules: list[Module] = []
        self._closed = False
        self._overlooked: dict[str, int] = {}

    async def open(self, settings: Sequence[ProviderSettings]) -> None:
        """Open each; faults are kept, not raised.

        Raises:
            Rejected: CONFIGURATION; two have one name.
        """
        names = [one.name for one in settings]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise Rejected.because(Refusal.CONFIGURATION, f"key stores have the same name: {', '.join(twice)}")
        for one in settings:
            if isinstance(one, SoftwareStoreSettings):
                self._by_name[one.name] = SoftwareStore(one)
            else:
                self._add_token(one)
        for module in self._distinct_modules():
            watcher = self._watchers[id(module)] = Watcher(module, self._attacher(module), self._reactor)
            await watcher.connect()

    def _add_token(self, settings: TokenSettings) -> None:
        try:
            module = Module.shared(settings)
        except KeyUnavailable as error:
            self._dead[settings.name] = error.problem
            return
        self._modules.append(module)
        self._by_name[settings.name] = Token(settings, module)

    def _distinct_modules(self) -> list[Module]:
        return list({id(module): module for module in self._modules}.values())

    def _attacher(self, module: Module) -> Any:
        def attach() -> None:
            for provider in list(self._by_name.values()):
                if isinstance(provider, Token) and provider.module is module:
                    for key in list(provider.keys.values()):
                        provider.attach(key)

        return attach

    def for_uri(self, name: str, uri: str) -> Provider:
        """The provider that a key's location means.

        Raises:
            KeyUnavailable: NO_PROVIDER; none of the configured ones (or several), or one that did not open.
        """
        serving = [provider for provider in self._by_name.values() if provider.serves(uri)]
        if len(serving) == 1:
            return serving[0]
        if not serving and self._dead and uri.startswith("pkcs11:"):
            dead = next(iter(self._dead.values()))
            raise KeyUnavailable.because(name, dead.kind, f"no open token serves {uri}; {dead}")
        what = "no configured key store serves" if not serving else "several configured tokens could serve"
        raise KeyUnavailable.because(name, FaultKind.NO_PROVIDER, f"{what} {uri}")

    def for_store(self, store: str) -> Provider:
        """The store of that name, or that a location means; raises :class:`Rejected` or :class:`KeyUnavailable`."""
        provider = self._by_name.get(store)
        if provider is not None:
            return provider
        if store in self._dead:
            raise KeyUnavailable(self._dead[store])
        if store.startswith(("pkcs11:", "file:")):
            with naming():
                return self.for_uri(store, store)
        allowed = ", ".join(self._by_name) or "none is configured"
        raise Rejected.because(Refusal.CONFIGURATION, f"there is no key store {store!r} (key stores: {allowed})")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all configured stores."""
        return (*self._by_name, *self._dead)

    @property
    def open_stores(self) -> tuple[Provider, ...]:
        """All that did open, by configuration's order."""
        return tuple(self._by_name.values())

    async def open_key(self, name: str, uri: str, spki: bytes) -> tuple[Provider, KeyHandle]:
        """The registered key; raises :class:`KeyUnavailable` where it cannot even be waited for."""
        provider = self.for_uri(name, uri)
        handle: KeyHandle = await executor_of(provider).run_aside(lambda: provider.open(name, uri, spki))
        return provider, handle

    async def look_again(self, provider: Provider, name: str) -> None:
        """Try once more to find a key that is at fault, where its token is there.

        A key that the token does not show is looked for in a module that is initialised anew, at the first try, the
        second, the fourth, the eighth and so on: each costs the other keys a moment.
        """
        if not isinstance(provider, Token) or provider.module.loss is not None or provider.login.problem is not None:
            return
        key = provider.keys.get(name)
        if key is None:
            return
        await provider.module.executor.run_aside(lambda: provider.attach(key))
        if key.problem is None or key.problem.kind is not FaultKind.KEY_MISSING:
            self._overlooked.pop(name, None)
            return
        tries = self._overlooked[name] = self._overlooked.get(name, 0) + 1
        if tries & (tries - 1) == 0:
            await self._watchers[id(provider.module)].connect(anew=lambda: provider.attach(key))

    def forget(self, name: str) -> None:
        """No longer look for a key when its token comes back."""
        self._overlooked.pop(name, None)
        for provider in self._by_name.values():
            if isinstance(provider, Token):
                provider.forget(name)

    def problems(self) -> tuple[KeyProblem, ...]:
        """What is wrong with the stores, by name."""
        found = list(self._dead.values())
        for provider in self._by_name.values():
            if isinstance(provider, SoftwareStore):
                problem = provider.check()
            else:
                problem = provider.module.loss or provider.login.problem
            if problem is not None:
                found.append(KeyProblem(provider.name, problem.kind, problem.text))
        return tuple(found)

    async def tokens(self) -> tuple[TokenInfo, ...]:
        """Each token as it is now."""
        return tuple([_info(provider) for provider in self._by_name.values() if isinstance(provider, Token)])

    async def close(self) -> None:
        """Close everything; modules are finalised."""
        if self._closed:
            return
        self._closed = True
        for watcher in self._watchers.values():
            await watcher.close()
        for provider in self._by_name.values():
            if isinstance(provider, SoftwareStore):
                await provider.close()
            else:
                provider.module.tokens.remove(provider.login)
        for module in self._modules:
            last = await module.executor.run_aside(module.release)
            if last:
                await module.executor.close()


def executor_of(provider: Provider) -> Executor:
    """The threads in which a provider's blocking methods run."""
    return provider.executor if isinstance(provider, SoftwareStore) else provider.module.executor


def _info(provider: Token) -> TokenInfo:
    from pkcs11 import Mechanism

    login, module = provider.login, provider.module
    token = login.token
    known = {mechanism.value: mechanism.name for mechanism in Mechanism}
    return TokenInfo(
        name=provider.name,
        module=str(provider.settings.module),
        library=describe(module.library) if module.library is not None else "-",
        label=token.label if token is not None else (provider.settings.token_label or "-"),
        serial=token.serial.decode(errors="replace") if token is not None else (provider.settings.token_serial or "-"),
        model=token.model.strip() if token is not None else "-",
        manufacturer=token.manufacturer_id.strip() if token is not None else "-",
        mechanisms=tuple(sorted(known.get(number, f"0x{number:x}") for number in login.mechanisms)),
        threads=provider.settings.threads,
        keys=len(provider.keys),
        losses=module.losses,
        problem=module.loss or login.problem,
    )
