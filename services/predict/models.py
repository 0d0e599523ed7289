"""The models of one node: what the repository holds, what is loaded, and the way from one to the other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from engines import EngineError, ModelConfig, ModelNotFound, ModelNotReady, ModelVersion, Repository
from engines._core import ModelConfig as NativeConfig
from engines._core import ModelRegistry, StateSpec, TensorSpec
from services.host import describe_error

# Bounds a request that came without any deadline: whoever sent it has stopped waiting by then.
_NO_DEADLINE_US = 30_000_000
_log = logging.getLogger(__name__)

Key = tuple[str, int]
# When the model's file was written and how large it is.
_Stamp = tuple[int, int]


class State(Enum):
    """What a node does with a version; the values are the wire names without their prefix."""

    AVAILABLE = "AVAILABLE"
    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    FAILED = "FAILED"
    NOT_SERVING = "NOT_SERVING"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version as the node sees it now.

    Attributes:
        config: None when the version's configuration cannot be read.
        native: counters and timings of a loaded version, as `ModelRegistry.models()` gives them.
    """

    name: str
    version: int
    state: State
    message: str = ""
    config: ModelConfig | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    license: str = ""
    native: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A version that answers requests: what it was loaded from, and its counters now."""

    found: ModelVersion
    native: Mapping[str, Any]

    @property
    def config(self) -> ModelConfig:
        """Returns the configuration that it was loaded with."""
        return self.found.config


def native_config(found: ModelVersion, labels: Mapping[str, Sequence[str]] | None = None) -> NativeConfig:
    """Returns what the native registry needs to load a version; the labels are by output."""
    config = found.config
    return NativeConfig(
        name=config.name,
        version=found.version,
        backend=config.backend,
        path="" if config.backend == "identity" else str(found.model_path),
        inputs=[TensorSpec(t.name, str(t.data_type), list(t.dims)) for t in config.inputs],
        outputs=[TensorSpec(t.name, str(t.data_type), list(t.dims)) for t in config.outputs],
        buckets=list(config.buckets),
        instances=config.instance_count,
        threads=config.threads,
        queue_max=config.queue_max,
        queue_bytes_max=config.queue_bytes_max,
        batch_delay_us=config.batch_delay_us,
        default_timeout_us=config.default_timeout_us or _NO_DEADLINE_US,
        postprocess=str(config.postprocess),
        score_threshold=config.nms_score_threshold,
        iou_threshold=config.nms_iou_threshold,
        response_cache_us=config.response_cache_ms * 1000,
        discipline=str(config.discipline),
        watchdog_us=config.watchdog_ms * 1000,
        identity_delay_us=config.identity_delay_us,
        identity_fail_every=config.identity_fail_every,
        batched=config.batched,
        default_priority=config.default_class,
        autopilot=str(config.autopilot),
        slo_p99_us=round(config.slo_p99_ms * 1000),
        slo_miss_rate=config.slo_miss_rate,
        labels={name: list(texts) for name, texts in (labels or {}).items()},
        states=[
            StateSpec(TensorSpec(one.input_name, str(one.data_type), list(one.dims)), one.output_name)
            for one in config.states
        ],
        sequence_idle_us=config.sequence_idle_us,
        sequences_max=config.sequences_max,
    )


class NodeModels:
    """Loads and unloads versions of a repository. Thread-safe; one load or unload at a time.

    Attributes:
        announce: called after each of them that changed something, before whoever asked for it hears that it is done.
    """

    def __init__(self, repository: Repository, registry: ModelRegistry) -> None:
        self._repository = repository
        self._prefix = f"{repository.root}/"
        self._registry = registry
        self._changing = threading.Lock()
        self._states: dict[Key, tuple[State, str]] = {}
        self._loaded: dict[Key, tuple[ModelVersion, _Stamp]] = {}
        self._start_is_over = threading.Event()
        self.announce: Callable[[], None] = lambda: None
        registry.set_available(repository.names())

    def __repr__(self) -> str:
        ready = [f"{m['name']}:{m['version']}" for m in self._registry.models()]
        return f"<NodeModels {' '.join(ready) or 'none ready'}>"

    def load_served(self, names: tuple[str, ...], is_stopping: Callable[[], bool] = lambda: False) -> list[EngineError]:
        """Loads the versions that the repository serves of these models, of all when empty.

        Returns the errors; what failed stays visible as FAILED. Ends early, between two models, when the process
        is asked to stop.
        """
        errors: list[EngineError] = []
        for found in self._find_served(names, errors):
            if is_stopping():
                break
            try:
                self._make_ready(found)
            except EngineError as error:
                errors.append(error)
        self._start_is_over.set()
        return errors

    @property
    def is_loaded(self) -> bool:
        """Returns whether the models of the start have been loaded, as far as they can be."""
        return self._start_is_over.is_set()

    def loaded(self, name: str = "", version: int = 0) -> list[LoadedModel]:
        """Returns the versions that answer requests, by name and version; all where these are empty and 0."""
        result = []
        for key, native in sorted(self._ready().items()):
            entry = self._loaded.get(key)
            if entry is not None and name in ("", key[0]) and version in (0, key[1]):
                result.append(LoadedModel(entry[0], native))
        return result

    def find_loaded(self, name: str, version: int = 0) -> LoadedModel:
        """Returns one version that answers requests; 0 is the highest.

        Raises:
            ModelNotFound: there is no such version.
            ModelNotReady: it is in the repository but not loaded.
        """
        found = self.loaded(name, version)
        if found:
            return found[-1]
        with self._files_named_from_here():
            missing = self._repository.find(name, version)
        raise ModelNotReady(
            f"model {missing.name}:{missing.version} is in the repository but not loaded; load it first",
            model=missing.name,
            version=missing.version,
        )

    def load(self, name: str, version: int = 0) -> ModelStatus:
        """Verifies, compiles and warms up a version; 0 is the highest. Loaded already: changes nothing.

        Raises:
            ModelNotFound, InvalidConfig, CorruptModel, EngineFailed: and the state says FAILED.
        """
        with self._files_named_from_here():
            found = self._repository.find(name, version)
            changed = self._make_ready(found)
        if changed:
            self.announce()
        return self.get(name, found.version)

    def refresh(self, name: str, *, grace_s: float = 10.0) -> None:
        """Makes what is loaded of a model what its version policy wants.

        Versions whose configuration or file has changed since are loaded again, with requests answered meanwhile;
        loaded versions that the policy no longer wants are unloaded.

        Raises:
            ModelNotFound, InvalidConfig, CorruptModel, EngineFailed: as `load`; later versions are not looked at.
        """
        with self._files_named_from_here():
            versions = self._repository.served_versions(name)
            found = (self._repository.find(name, version) for version in versions or [0])
            changed = [self._make_ready(one, again=True) for one in found]
        if any(changed):
            self.announce()
        for one in self.loaded(name):
            if one.found.version not in versions:
                self.unload(name, one.found.version, grace_s=grace_s)

    def _find_served(self, names: tuple[str, ...], errors: list[EngineError]) -> Iterator[ModelVersion]:
        for name in names or tuple(self._repository.names()):
            try:
                # A model without any version is asked for as the highest one, so that it is missed by name.
                versions = self._repository.served_versions(name) or [0]
            except EngineError as error:
                _log.error("model %s cannot be read: %s", name, describe_error(error))
                errors.append(error)
                continue
            for version in versions:
                try:
                    yield self._repository.find(name, version)
                except EngineError as error:
                    _log.error("model %s cannot be read: %s", name, describe_error(error))
                    errors.append(error)

    def _make_ready(self, found: ModelVersion, *, again: bool = False) -> bool:
        """Returns whether anything had to be done."""
        key = (found.name, found.version)
        with self._changing:
            stamp = _stamp(found)
            if key in self._ready() and (not again or self._loaded.get(key) == (found, stamp)):
                return False
            self._states[key] = (State.LOADING, "")
            self._registry.set_available(self._repository.names())
            try:
                if found.manifest is None and found.config.backend != "identity":
                    _log.warning("model %s:%d has no manifest: its files are served unchecked", *key)
                found.verify()
                self._registry.load(native_config(found, self._repository.labels_of(found.config)))
            except Exception as error:
                self._states[key] = (State.FAILED, self._tell(error))
                _log.error("model %s:%d failed to load: %s", *key, describe_error(error))
                raise
            self._loaded[key] = (found, stamp)
            self._states.pop(key)
            _log.info("model %s:%d is ready", *key)
            return True

    def unload(self, name: str, version: int = 0, *, grace_s: float = 10.0) -> list[ModelStatus]:
        """Answers what is admitted, frees the version (every loaded one for 0), returns their status.

        Raises:
            ModelNotFound: no such version is loaded.
        """
        with self._changing:
            keys = [key for key in self._ready() if key[0] == name and version in (0, key[1])]
            if not keys:
                raise ModelNotFound(
                    f"model {name}{f':{version}' if version else ''} is not loaded; "
                    "ModelService.ListModels shows what is",
                    model=name,
                )
            for key in keys:
                self._states[key] = (State.DRAINING, "")
                self._registry.unload(key[0], key[1], grace_s=grace_s)
                self._states.pop(key)
                self._loaded.pop(key, None)
                _log.info("model %s:%d is unloaded", *key)
        self.announce()
        ready = self._ready()
        return [self._look_up(key, ready) for key in keys]

    def list(self, name: str = "") -> list[ModelStatus]:
        """Returns every version in the repository, by name, then version."""
        ready = self._ready()
        entries = [entry for entry in self._repository.scan() if name in ("", entry.name)]
        statuses = [self._describe((e.name, e.version), ready, e.found, e.error) for e in entries]
        # What is loaded serves on even when its folder or configuration has gone since.
        missing = ready.keys() - {(e.name, e.version) for e in entries}
        statuses += [self._look_up(key, ready) for key in missing if name in ("", key[0])]
        return sorted(statuses, key=lambda s: (s.name, s.version))

    def get(self, name: str, version: int = 0) -> ModelStatus:
        """Returns one version; 0 is the highest that is ready, else the highest.

        Raises:
            ModelNotFound: the repository has no such version.
        """
        ready = self._ready()
        if version == 0:
            version = max((v for n, v in ready if n == name), default=0)
        if version == 0 or (name, version) not in ready:
            with self._files_named_from_here():
                found = self._repository.find(name, version)
            return self._describe((name, found.version), ready, found, None)
        return self._look_up((name, version), ready)

    def _ready(self) -> dict[Key, Mapping[str, Any]]:
        return {(m["name"], m["version"]): m for m in self._registry.models()}

    def _look_up(self, key: Key, ready: Mapping[Key, Mapping[str, Any]]) -> ModelStatus:
        try:
            return self._describe(key, ready, self._repository.find(*key), None)
        except EngineError as error:
            return self._describe(key, ready, None, error)

    def _describe(
        self,
        key: Key,
        ready: Mapping[Key, Mapping[str, Any]],
        found: ModelVersion | None,
        error: EngineError | None,
    ) -> ModelStatus:
        native = ready.get(key)
        state, message = self._states.get(key, _state_of(native))
        if found is not None:
            try:
                labels = self._repository.labels_of(found.config)
                return ModelStatus(*key, state, message, found.config, labels, found.license, native)
            except EngineError as problem:
                error = problem
        # What is loaded keeps serving even when its files have gone bad since.
        failed = State.FAILED if native is None else state
        return ModelStatus(*key, failed, message or self._tell(error), native=native)

    def _tell(self, error: object) -> str:
        """Returns the text of an error as callers get it: files are named from the repository on."""
        return str(error).replace(self._prefix, "")

    @contextmanager
    def _files_named_from_here(self) -> Iterator[None]:
        """Lets errors name files from the repository on; callers of a node need not know its folders."""
        try:
            yield
        except EngineError as error:
            error.args = (self._tell(error),)
            vars(error).update((k, self._tell(v)) for k, v in error.facts.items() if isinstance(v, str))
            raise


def _state_of(native: Mapping[str, Any] | None) -> tuple[State, str]:
    if native is None:
        return State.AVAILABLE, ""
    if native["healthy"]:
        return State.READY, ""
    return State.NOT_SERVING, "its engine hung or failed several times in a row; it is tried again every second"


def _stamp(found: ModelVersion) -> _Stamp:
    try:
        status = found.model_path.stat()
    except OSError:
        return (0, 0)  # `verify` says what is missing
    return (status.st_mtime_ns, status.st_size)
