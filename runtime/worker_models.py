"""What a worker answers with: the cloud models of bundles, here or on a server of models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace as replaced
from numpy.typing import NDArray

from ..models.bundle import Bundle, load_bundle
from ..models.errors import BundleError, ConfigError
from ..models.graph import model_spec
from ..models.manifest import Cloud, Input
from ..models.model import Model, ModelSpec
from ..models.opinion import Assessor
from ..models.prepare import preparer
from ..models.records import Probs
from ..uplink.far_end.responder import Responder
from .adapt.pair_keeper import LabelTerms, PairKeeper, PairTerms
from .backends import open_part
from .backends.options import BackendOptions
from .both_ends import contract_of
from .open_inference.address import Address
from .open_inference.served_model import ServedModel, connect
from .shipped import bundle_path


class Servers(Struct, frozen=True, kw_only=True):
    """Where models run that do not run here: by bundle, as the bundle was named."""

    addresses: Mapping[str, Address]
    timeout_s: float
    ca_file: Path | None = None

    @classmethod
    def parse(
        cls,
        given: Sequence[tuple[str | None, Address]],
        *,
        bundles: Sequence[str],
        timeout_s: float,
        ca_file: Path | None,
    ) -> Servers:
        """Match servers with bundles; None is for the only bundle.

        Raises:
            ConfigError: for no bundle, or for one of several that is not named.
        """
        addresses: dict[str, Address] = {}
        for named, address in given:
            name = bundles[0] if named is None and len(bundles) == 1 else named
            if name is None:
                raise ConfigError(
                    f"which of {', '.join(bundles)} is it for?",
                    where=str(address),
                    hint=f"--model-server {bundles[0]}={address}",
                )
            if name not in bundles or name in addresses:
                what = "has two servers" if name in addresses else "is no bundle of this worker"
                raise ConfigError(what, where=name)
            addresses[name] = address
        if ca_file is not None and not any(one.tls for one in addresses.values()):
            raise ConfigError(
                "certificates need TLS", where=str(ca_file), hint="https:// or grpcs://"
            )
        return cls(addresses=addresses, timeout_s=timeout_s, ca_file=ca_file)


class Keeping(Struct, frozen=True, kw_only=True):
    """Where pairs are kept, how many bytes of each contract, and below which doubt of the cloud.

    ``limit`` None: labels are kept, whatever the cloud says.
    """

    folder: Path
    max_bytes: int
    limit: float | None = None


def open_responders(
    names: Sequence[str],
    *,
    servers: Servers,
    threads: int,
    stack: contextlib.ExitStack,
    keeping: Sequence[Keeping] = (),
) -> list[Responder]:
    """Open what answers for each bundle; ``stack`` closes it.

    A bundle's [split] is answered to beside its cloud model, and in this process. With
    ``keeping`` what it answers is kept, as pairs or as labels, but for the features of a [split].

    Raises:
        BundleError: one has no cloud model, or answers to the same asks as another.
        HedgeError: one cannot be read, or its model cannot be opened.
    """
    found: dict[str, Responder] = {}
    for name in names:
        bundle = load_bundle(bundle_path(name))
        address = servers.addresses.get(name)
        for one in _of_bundle(bundle, address, servers=servers, threads=threads, stack=stack):
            if one.contract.digest in found:
                raise BundleError("answers to the same asks as another one", where=str(bundle.path))
            found[one.contract.digest] = _keeping(one, bundle, keeping, stack=stack)
    return list(found.values())


def _keeping(
    responder: Responder, bundle: Bundle, keeping: Sequence[Keeping], *, stack: contextlib.ExitStack
) -> Responder:
    """Return the responder with those who keep pairs or labels, where that was asked for."""
    if responder.entry != "input":
        return responder
    found = []
    for one in keeping:
        terms = (
            LabelTerms.of(bundle) if one.limit is None else PairTerms.of(bundle, limit=one.limit)
        )
        keeper = PairKeeper(one.folder, terms, max_bytes=one.max_bytes)
        stack.callback(keeper.close)
        found.append(keeper)
    return replaced(responder, keep=tuple(found))


def _of_bundle(
    bundle: Bundle,
    address: Address | None,
    *,
    servers: Servers,
    threads: int,
    stack: contextlib.ExitStack,
) -> Iterator[Responder]:
    split = bundle.manifest.split
    if split is None or bundle.manifest.cloud is not None:
        if address is None:
            yield _here(bundle, _cloud(bundle), threads=threads, stack=stack)
        else:
            yield _there(bundle, address, servers=servers, stack=stack)
    if split is not None:
        yield _here(bundle, split.cloud, features=split.features, threads=threads, stack=stack)


def _here(
    bundle: Bundle,
    cloud: Cloud,
    *,
    features: Input | None = None,
    threads: int,
    stack: contextlib.ExitStack,
) -> Responder:
    """Open a bundle's cloud model in this process, or the half that takes ``features``."""
    model = open_part(bundle, cloud, options=BackendOptions(threads=threads))
    stack.callback(model.close)
    return _responder(bundle, cloud, model, features=features)


def _there(
    bundle: Bundle, address: Address, *, servers: Servers, stack: contextlib.ExitStack
) -> Responder:
    """Connect to the server that runs a bundle's cloud model."""
    cloud = _cloud(bundle)
    where = f"{bundle.path}/{cloud.file}"
    data = bundle.read(cloud.file)
    found = model_spec(data, format=cloud.format, output=cloud.output_name, where=where)
    output = found.outputs[0]._replace(shape=(None, len(bundle.labels)))
    model = ServedModel(
        connect(address, timeout_s=servers.timeout_s, ca_file=servers.ca_file),
        spec=ModelSpec(found.inputs, (output,)),
        where=str(address),
    )
    stack.callback(model.close)
    responder = _responder(bundle, cloud, model)
    return Responder(contract=responder.contract, respond=responder.respond, check=model.check)


def _cloud(bundle: Bundle) -> Cloud:
    cloud = bundle.manifest.cloud
    if cloud is None:
        raise BundleError("has no cloud model", where=str(bundle.path))
    return cloud


def _responder(
    bundle: Bundle, cloud: Cloud, model: Model, *, features: Input | None = None
) -> Responder:
    """Return how the bundle turns the model's outputs into an answer."""
    prepare = preparer(features or bundle.input, model.spec.inputs[0])
    assessor = Assessor.of(cloud, classes=len(bundle.labels))

    def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
        opinions = assessor.assess_batch(model.infer(prepare(batch)))
        return opinions.probs, opinions.alpha

    return Responder(
        contract=contract_of(bundle, features=features is not None),
        respond=respond,
        entry="input" if features is None else "features",
    )
