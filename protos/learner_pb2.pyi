from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JoinRequest(_message.Message):
    __slots__ = ("protocol", "incarnation", "host", "pid", "wanted_slot")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    WANTED_SLOT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    incarnation: int
    host: str
    pid: int
    wanted_slot: int
    def __init__(self, protocol: _Optional[int] = ..., incarnation: _Optional[int] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., wanted_slot: _Optional[int] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("protocol", "learner_incarnation", "slot", "first_round", "experience_address", "run")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    LEARNER_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROUND_FIELD_NUMBER: _ClassVar[int]
    EXPERIENCE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    learner_incarnation: int
    slot: int
    first_round: int
    experience_address: str
    run: bytes
    def __init__(self, protocol: _Optional[int] = ..., learner_incarnation: _Optional[int] = ..., slot: _Optional[int] = ..., first_round: _Optional[int] = ..., experience_address: _Optional[str] = ..., run: _Optional[bytes] = ...) -> None: ...

class WeightsRequest(_message.Message):
    __slots__ = ("protocol", "incarnation", "slot", "from_version", "every")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    FROM_VERSION_FIELD_NUMBER: _ClassVar[int]
    EVERY_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    incarnation: int
    slot: int
    from_version: int
    every: bool
    def __init__(self, protocol: _Optional[int] = ..., incarnation: _Optional[int] = ..., slot: _Optional[int] = ..., from_version: _Optional[int] = ..., every: _Optional[bool] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("learner_incarnation", "version", "env_steps", "params", "manifest", "settled")
    class SettledEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    LEARNER_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENV_STEPS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    learner_incarnation: int
    version: int
    env_steps: int
    params: bytes
    manifest: str
    settled: _containers.ScalarMap[int, int]
    def __init__(self, learner_incarnation: _Optional[int] = ..., version: _Optional[int] = ..., env_steps: _Optional[int] = ..., params: _Optional[bytes] = ..., manifest: _Optional[str] = ..., settled: _Optional[_Mapping[int, int]] = ...) -> None: ...

class WeightsReply(_message.Message):
    __slots__ = ("snapshot", "finished")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    finished: str
    def __init__(self, snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., finished: _Optional[str] = ...) -> None: ...

class LearnerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ActorInfo(_message.Message):
    __slots__ = ("slot", "host", "pid", "state", "restarts", "env_steps", "env_steps_per_s", "version", "silent_s", "act_share")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    ENV_STEPS_FIELD_NUMBER: _ClassVar[int]
    ENV_STEPS_PER_S_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SILENT_S_FIELD_NUMBER: _ClassVar[int]
    ACT_SHARE_FIELD_NUMBER: _ClassVar[int]
    slot: int
    host: str
    pid: int
    state: str
    restarts: int
    env_steps: int
    env_steps_per_s: float
    version: int
    silent_s: float
    act_share: float
    def __init__(self, slot: _Optional[int] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., state: _Optional[str] = ..., restarts: _Optional[int] = ..., env_steps: _Optional[int] = ..., env_steps_per_s: _Optional[float] = ..., version: _Optional[int] = ..., silent_s: _Optional[float] = ..., act_share: _Optional[float] = ...) -> None: ...

class TableWaiter(_message.Message):
    __slots__ = ("table", "who", "what", "waited_s", "reason")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    WAITED_S_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    table: str
    who: str
    what: str
    waited_s: float
    reason: str
    def __init__(self, table: _Optional[str] = ..., who: _Optional[str] = ..., what: _Optional[str] = ..., waited_s: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class LearnerTable(_message.Message):
    __slots__ = ("name", "figures")
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    name: str
    figures: _containers.ScalarMap[str, float]
    def __init__(self, name: _Optional[str] = ..., figures: _Optional[_Mapping[str, float]] = ...) -> None: ...

class LearnerInfoReply(_message.Message):
    __slots__ = ("protocol", "run", "address", "figures", "bottleneck", "advice", "actors", "waiters", "tables", "modules")
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    BOTTLENECK_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    WAITERS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    MODULES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    run: str
    address: str
    figures: _containers.ScalarMap[str, float]
    bottleneck: str
    advice: str
    actors: _containers.RepeatedCompositeFieldContainer[ActorInfo]
    waiters: _containers.RepeatedCompositeFieldContainer[TableWaiter]
    tables: _containers.RepeatedCompositeFieldContainer[LearnerTable]
    modules: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, protocol: _Optional[int] = ..., run: _Optional[str] = ..., address: _Optional[str] = ..., figures: _Optional[_Mapping[str, float]] = ..., bottleneck: _Optional[str] = ..., advice: _Optional[str] = ..., actors: _Optional[_Iterable[_Union[ActorInfo, _Mapping]]] = ..., waiters: _Optional[_Iterable[_Union[TableWaiter, _Mapping]]] = ..., tables: _Optional[_Iterable[_Union[LearnerTable, _Mapping]]] = ..., modules: _Optional[_Iterable[str]] = ...) -> None: ...
