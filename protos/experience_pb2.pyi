from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TableDefinition(_message.Message):
    __slots__ = ("name", "settings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings: bytes
    def __init__(self, name: _Optional[str] = ..., settings: _Optional[bytes] = ...) -> None: ...

class EnsureTableRequest(_message.Message):
    __slots__ = ("protocol", "table", "learner")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    table: TableDefinition
    learner: int
    def __init__(self, protocol: _Optional[int] = ..., table: _Optional[_Union[TableDefinition, _Mapping]] = ..., learner: _Optional[int] = ...) -> None: ...

class EnsureTableReply(_message.Message):
    __slots__ = ("created", "changed", "kept")
    CREATED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    created: bool
    changed: _containers.RepeatedScalarFieldContainer[str]
    kept: bool
    def __init__(self, created: _Optional[bool] = ..., changed: _Optional[_Iterable[str]] = ..., kept: _Optional[bool] = ...) -> None: ...

class Episode(_message.Message):
    __slots__ = ("total_reward", "length_env_steps")
    TOTAL_REWARD_FIELD_NUMBER: _ClassVar[int]
    LENGTH_ENV_STEPS_FIELD_NUMBER: _ClassVar[int]
    total_reward: float
    length_env_steps: int
    def __init__(self, total_reward: _Optional[float] = ..., length_env_steps: _Optional[int] = ...) -> None: ...

class UnrollHeader(_message.Message):
    __slots__ = ("slot", "round", "version", "env_steps", "episodes", "act_s", "wait_weights_s", "wait_acks_s", "restarted")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENV_STEPS_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    ACT_S_FIELD_NUMBER: _ClassVar[int]
    WAIT_WEIGHTS_S_FIELD_NUMBER: _ClassVar[int]
    WAIT_ACKS_S_FIELD_NUMBER: _ClassVar[int]
    RESTARTED_FIELD_NUMBER: _ClassVar[int]
    slot: int
    round: int
    version: int
    env_steps: int
    episodes: _containers.RepeatedCompositeFieldContainer[Episode]
    act_s: float
    wait_weights_s: float
    wait_acks_s: float
    restarted: bool
    def __init__(self, slot: _Optional[int] = ..., round: _Optional[int] = ..., version: _Optional[int] = ..., env_steps: _Optional[int] = ..., episodes: _Optional[_Iterable[_Union[Episode, _Mapping]]] = ..., act_s: _Optional[float] = ..., wait_weights_s: _Optional[float] = ..., wait_acks_s: _Optional[float] = ..., restarted: _Optional[bool] = ...) -> None: ...

class InsertOpen(_message.Message):
    __slots__ = ("protocol", "table", "slot", "incarnation", "learner")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    table: str
    slot: int
    incarnation: int
    learner: int
    def __init__(self, protocol: _Optional[int] = ..., table: _Optional[str] = ..., slot: _Optional[int] = ..., incarnation: _Optional[int] = ..., learner: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("seq", "part", "parts", "header", "payload_bytes")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    seq: int
    part: int
    parts: int
    header: UnrollHeader
    payload_bytes: int
    def __init__(self, seq: _Optional[int] = ..., part: _Optional[int] = ..., parts: _Optional[int] = ..., header: _Optional[_Union[UnrollHeader, _Mapping]] = ..., payload_bytes: _Optional[int] = ...) -> None: ...

class InsertRequest(_message.Message):
    __slots__ = ("open", "chunks", "over", "padding", "payload")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    open: InsertOpen
    chunks: _containers.RepeatedCompositeFieldContainer[Chunk]
    over: bool
    padding: bytes
    payload: bytes
    def __init__(self, open: _Optional[_Union[InsertOpen, _Mapping]] = ..., chunks: _Optional[_Iterable[_Union[Chunk, _Mapping]]] = ..., over: _Optional[bool] = ..., padding: _Optional[bytes] = ..., payload: _Optional[bytes] = ...) -> None: ...

class InsertOpened(_message.Message):
    __slots__ = ("next_seq", "table_epoch", "staged")
    NEXT_SEQ_FIELD_NUMBER: _ClassVar[int]
    TABLE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    STAGED_FIELD_NUMBER: _ClassVar[int]
    next_seq: int
    table_epoch: int
    staged: bool
    def __init__(self, next_seq: _Optional[int] = ..., table_epoch: _Optional[int] = ..., staged: _Optional[bool] = ...) -> None: ...

class InsertReply(_message.Message):
    __slots__ = ("opened", "ack")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    opened: InsertOpened
    ack: int
    def __init__(self, opened: _Optional[_Union[InsertOpened, _Mapping]] = ..., ack: _Optional[int] = ...) -> None: ...

class SampleOpen(_message.Message):
    __slots__ = ("protocol", "table", "seed", "by_reference", "compress", "headers", "learner")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    BY_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    COMPRESS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    table: str
    seed: int
    by_reference: bool
    compress: bool
    headers: bool
    learner: int
    def __init__(self, protocol: _Optional[int] = ..., table: _Optional[str] = ..., seed: _Optional[int] = ..., by_reference: _Optional[bool] = ..., compress: _Optional[bool] = ..., headers: _Optional[bool] = ..., learner: _Optional[int] = ...) -> None: ...

class SampleOpened(_message.Message):
    __slots__ = ("directory", "table_epoch", "cells", "max_items")
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    TABLE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEMS_FIELD_NUMBER: _ClassVar[int]
    directory: str
    table_epoch: int
    cells: int
    max_items: int
    def __init__(self, directory: _Optional[str] = ..., table_epoch: _Optional[int] = ..., cells: _Optional[int] = ..., max_items: _Optional[int] = ...) -> None: ...

class Apply(_message.Message):
    __slots__ = ("round", "slots")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    round: int
    slots: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, round: _Optional[int] = ..., slots: _Optional[_Iterable[int]] = ...) -> None: ...

class Draw(_message.Message):
    __slots__ = ("draw", "batches", "batch_size", "apply")
    DRAW_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    APPLY_FIELD_NUMBER: _ClassVar[int]
    draw: int
    batches: int
    batch_size: int
    apply: Apply
    def __init__(self, draw: _Optional[int] = ..., batches: _Optional[int] = ..., batch_size: _Optional[int] = ..., apply: _Optional[_Union[Apply, _Mapping]] = ...) -> None: ...

class SampleRequest(_message.Message):
    __slots__ = ("open", "draw", "padding", "payload")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    DRAW_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    open: SampleOpen
    draw: Draw
    padding: bytes
    payload: bytes
    def __init__(self, open: _Optional[_Union[SampleOpen, _Mapping]] = ..., draw: _Optional[_Union[Draw, _Mapping]] = ..., padding: _Optional[bytes] = ..., payload: _Optional[bytes] = ...) -> None: ...

class SampleReply(_message.Message):
    __slots__ = ("opened", "draw", "headers", "inserted_items", "sampled_items", "items", "waited_s", "reason", "unknown_keys", "padding", "payload")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    DRAW_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    INSERTED_ITEMS_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_ITEMS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    WAITED_S_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_KEYS_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    opened: SampleOpened
    draw: int
    headers: _containers.RepeatedCompositeFieldContainer[UnrollHeader]
    inserted_items: int
    sampled_items: int
    items: int
    waited_s: float
    reason: str
    unknown_keys: int
    padding: bytes
    payload: bytes
    def __init__(self, opened: _Optional[_Union[SampleOpened, _Mapping]] = ..., draw: _Optional[int] = ..., headers: _Optional[_Iterable[_Union[UnrollHeader, _Mapping]]] = ..., inserted_items: _Optional[int] = ..., sampled_items: _Optional[int] = ..., items: _Optional[int] = ..., waited_s: _Optional[float] = ..., reason: _Optional[str] = ..., unknown_keys: _Optional[int] = ..., padding: _Optional[bytes] = ..., payload: _Optional[bytes] = ...) -> None: ...

class CheckpointRequest(_message.Message):
    __slots__ = ("protocol", "table", "round", "keep_rounds")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KEEP_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    table: str
    round: int
    keep_rounds: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, protocol: _Optional[int] = ..., table: _Optional[str] = ..., round: _Optional[int] = ..., keep_rounds: _Optional[_Iterable[int]] = ...) -> None: ...

class CheckpointReply(_message.Message):
    __slots__ = ("items", "took_s")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    TOOK_S_FIELD_NUMBER: _ClassVar[int]
    items: int
    took_s: float
    def __init__(self, items: _Optional[int] = ..., took_s: _Optional[float] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("protocol", "table", "round")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    table: str
    round: int
    def __init__(self, protocol: _Optional[int] = ..., table: _Optional[str] = ..., round: _Optional[int] = ...) -> None: ...

class RollbackReply(_message.Message):
    __slots__ = ("items", "lost_items")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    LOST_ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: int
    lost_items: int
    def __init__(self, items: _Optional[int] = ..., lost_items: _Optional[int] = ...) -> None: ...

class DropTableRequest(_message.Message):
    __slots__ = ("protocol", "table")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    table: str
    def __init__(self, protocol: _Optional[int] = ..., table: _Optional[str] = ...) -> None: ...

class DropTableReply(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: int
    def __init__(self, items: _Optional[int] = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Waiter(_message.Message):
    __slots__ = ("who", "what", "waited_s", "reason")
    WHO_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    WAITED_S_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    who: str
    what: str
    waited_s: float
    reason: str
    def __init__(self, who: _Optional[str] = ..., what: _Optional[str] = ..., waited_s: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class TableInfo(_message.Message):
    __slots__ = ("name", "figures", "waiters", "definition")
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    WAITERS_FIELD_NUMBER: _ClassVar[int]
    DEFINITION_FIELD_NUMBER: _ClassVar[int]
    name: str
    figures: _containers.ScalarMap[str, float]
    waiters: _containers.RepeatedCompositeFieldContainer[Waiter]
    definition: TableDefinition
    def __init__(self, name: _Optional[str] = ..., figures: _Optional[_Mapping[str, float]] = ..., waiters: _Optional[_Iterable[_Union[Waiter, _Mapping]]] = ..., definition: _Optional[_Union[TableDefinition, _Mapping]] = ...) -> None: ...

class InfoReply(_message.Message):
    __slots__ = ("protocol", "tables", "addresses")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    tables: _containers.RepeatedCompositeFieldContainer[TableInfo]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, protocol: _Optional[int] = ..., tables: _Optional[_Iterable[_Union[TableInfo, _Mapping]]] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...
