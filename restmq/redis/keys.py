"""Every Redis key and channel of RestMQ, spelt here and nowhere else.

========================  ==========  ===================================================
key                       type        holds
========================  ==========  ===================================================
``<p>{q}``                hash        numbers and settings of the queue (FIELDS in common.lua)
``<p>{q}:l``              list        waiting messages, oldest left
``<p>{q}:f``              list        packs: messages behind those, many as one
``<p>{q}:w``              sorted set  broadcast window: chunks by the position they end at
``<p>{q}:r``              sorted set  round-robin window: dealt chunks
``<p>{q}:c``              hash        daemon -> what it confirmed, its deadline, its last chunk
``<p>{q}:o``              hash        old broker -> numbers taken over (``restmq import-legacy``)
``<p>{q}:t``              list        the slots (``daemon:consumer``) in turn
``<p>{q}:m``              hash        slot -> room
``<p>{q}:h``              list        broadcast chunks kept for those who come back (replay)
``<p>{q}:p``              hash        daemon -> how many consumers it has, by transport
``<p>{q}:y``              sorted set  messages ready again or with a priority, in their order
``<p>{q}:j``              hash        id -> a message that is leased or delayed
``<p>{q}:x``              sorted set  leased ids by when the lease ends, ms
``<p>{q}:d``              sorted set  delayed ids by when they are due, ms
``<p>{q}:k``              sorted set  outbox: what moves to another queue, by when it was put there
``<p>{q}:i:<digest>``     string      what an idempotency key stands for, until it is forgotten
``<p>due:{all}``          sorted set  queues by when to look at them, ms
``<p>due:{all}:claimed``  sorted set  those that a daemon looks at, by when another takes over
``<p>queues:<n>``         set         names of the queues of shard n (0-63)
``<p>tokens``             hash        SHA-256 of a token for ``/e/`` -> what is known of it
``<p>profiles``           hash        profile -> its JSON; ``:version``, how far it is ``:applied``
``<p>epoch``              string      when this life of the store began, ms
``<p>profiles``           channel     the version, when a profile has changed
``<p>{q}:out``            channel     broadcast chunks; ``P`` when the queue is purged
``<p>{q}:to:<daemon>``    channel     chunks dealt to this daemon, and acknowledgements of those
``<p>{q}:see``            channel     copies of what is added, while somebody observes
``<p>{q}:wake``           channel     something is ready, while somebody waits in a long poll
``<p>log:{l}``            hash        numbers of the event log ``l`` (log_common.lua)
``<p>log:{l}:i``          sorted set  index of its events by topic, then id
``<p>log:{l}:g``          sorted set  topic -> the highest id of it that is kept no more
``<p>log:{l}:b``          hash        bindings: name -> pattern and queue
``<p>log:{l}:o``          stream      outbox: events on their way into bound queues
``<p>log:{l}:e<n>``       stream      its events whose retention is of class n (0-15)
``<p>log:{l}:out``        channel     chunks of events as they are appended
``<p>logs``               set         names of the event logs
``<p>schedules:{all}``    hash        name -> definition of a schedule (schedule_common.lua)
``<p>schedules:{all}:s``  hash        name -> state: since when, last run ...
``<p>schedules:{all}:m``  hash        name -> the message it puts
``<p>schedules:{all}:o``  hash        outbox: name -> the run that is being put
``<p>schedules:{all}:v``  string      version of the definitions
========================  ==========  ===================================================

``<p>`` is the prefix (``restmq:`` unless set), and in a database other than 0 its number and a
colon, since channels know no databases. The braces make all keys of a queue one
cluster slot. In ``{q}`` the characters ``%``, ``{`` and ``}`` are written ``%25``, ``%7B``
and ``%7D``, and the empty name ``%``, so that no two names share a key.
"""

from zlib import crc32

SHARDS = 64

LOG_CLASSES = 16
"""How many classes of retention an event log has."""

_LOG_SUFFIXES = (
    *(b"", b":i", b":g", b":b", b":o"),
    *(b":e%d" % n for n in range(LOG_CLASSES)),
    b":k",
)
_SUFFIXES = (
    *(b"", b":l", b":w", b":r", b":c", b":t", b":m", b":h", b":p"),
    *(b":y", b":j", b":x", b":d", b":k", b":f"),
)


class Keys:
    """The keys of one installation; two with other prefixes share nothing."""

    def __init__(self, prefix: str, db: int = 0) -> None:
        """``prefix`` comes before every key and channel; ``db`` is the database's number."""
        self.prefix = (f"{prefix}{db}:" if db else prefix).encode("utf-8")

    def queue(self, name: str) -> tuple[bytes, ...]:
        """The keys of a queue in the order of the scripts' KEYS."""
        base = self.base(name)
        return tuple(base + suffix for suffix in _SUFFIXES)

    def base(self, name: str) -> bytes:
        """The queue's hash, with which all its keys and channels begin."""
        tag = name.replace("%", "%25").replace("{", "%7B").replace("}", "%7D") or "%"
        return b"%s{%s}" % (self.prefix, tag.encode("utf-8"))

    def taken_over(self, name: str) -> bytes:
        """The notes of which messages of old brokers the queue has."""
        return self.base(name) + b":o"

    def channels(self, name: str, daemon: bytes) -> tuple[bytes, bytes]:
        """The channels a daemon with consumers of the queue listens to."""
        base = self.base(name)
        return base + b":out", base + b":to:" + daemon

    def observers(self, name: str) -> bytes:
        """The channel of copies of what is added."""
        return self.base(name) + b":see"

    def outbox(self, name: str) -> bytes:
        """What is on its way from the queue to others."""
        return self.base(name) + b":k"

    def wake(self, name: str) -> bytes:
        """The channel that says that something is ready."""
        return self.base(name) + b":wake"

    def idempotency(self, name: str, digest: bytes) -> bytes:
        """What an idempotency key of the queue stands for."""
        return self.base(name) + b":i:" + digest

    def due(self) -> tuple[bytes, bytes]:
        """Queues by when to look at them, and those that somebody looks at."""
        return self.prefix + b"due:{all}", self.prefix + b"due:{all}:claimed"

    @property
    def profiles(self) -> bytes:
        """The hash of the profiles, and the channel that tells of changes."""
        return self.prefix + b"profiles"

    @property
    def epoch(self) -> bytes:
        """When this life of the store began."""
        return self.prefix + b"epoch"

    def shard(self, name: str) -> bytes:
        """The set that lists this queue."""
        return b"%squeues:%d" % (self.prefix, crc32(name.encode("utf-8")) % SHARDS)

    def tokens(self) -> bytes:
        """The tokens of clients of ``/e/``."""
        return self.prefix + b"tokens"

    def shards(self) -> list[bytes]:
        """All sets that list queues."""
        return [b"%squeues:%d" % (self.prefix, n) for n in range(SHARDS)]

    def log(self, name: str) -> tuple[bytes, ...]:
        """The keys of an event log in the order of the KEYS of the log scripts."""
        base = b"%slog:{%s}" % (self.prefix, name.encode("ascii"))
        return tuple(base + suffix for suffix in _LOG_SUFFIXES)

    def log_channel(self, name: str) -> bytes:
        """The channel of what is appended to an event log."""
        return self.log(name)[0] + b":out"

    def logs(self) -> bytes:
        """The set that lists the event logs."""
        return self.prefix + b"logs"

    def schedules(self) -> tuple[bytes, ...]:
        """The keys of all schedules in the order of the KEYS of their scripts."""
        base = b"%sschedules:{all}" % self.prefix
        return tuple(base + suffix for suffix in (b"", b":s", b":m", b":o", b":v"))
