"""What is promised of jobs, in plain Python: the specification the store is compared with.

One queue and its dead letters, with time in hand. Nothing here knows of scripts, keys or bytes;
`receive` hands out by priority, then by id, and whatever is over is over at the millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

READY, LEASED, DELAYED = "ready", "leased", "delayed"
NONE, PUSH, ALL = "none", "push", "all"


@dataclass(frozen=True)
class Rules:
    """The settings of a queue; 0 means no bound. Times are milliseconds."""

    max_attempts: int = 5
    backoff_first: int = 1000
    backoff_factor: int = 2
    backoff_max: int = 300_000
    ttl: int = 0
    max_length: int = 0
    drop_oldest: bool = False
    priorities: bool = False
    paused: str = NONE


@dataclass
class Job:
    """A message; ``due`` is when its lease or its delay ends."""

    id: int
    body: bytes
    priority: int
    expires: int
    state: str = READY
    due: int = 0
    attempt: int = 0
    error: str = ""


@dataclass(frozen=True)
class Dead:
    """What a dead letter tells of the message it was."""

    body: bytes
    origin: int
    reason: str
    attempts: int
    error: str


@dataclass
class Jobs:
    """The queue."""

    now: int
    rules: Rules = field(default_factory=Rules)
    jobs: dict[int, Job] = field(default_factory=dict)
    dead: list[Dead] = field(default_factory=list)
    last_id: int = 0

    def set(self, **rules: object) -> None:
        """Change some of the rules; what is there stays as it is."""
        self.rules = replace(self.rules, **rules)  # type: ignore[arg-type]

    def put(self, body: bytes, ttl: int = 0, delay: int = 0, priority: int = 0) -> int | str:
        """The id, or the word that says why not."""
        if priority and not self.rules.priorities:
            return "priorities_off"
        if self.rules.max_length and not self._make_room():
            return "queue_full"
        self.last_id += 1
        ttl = ttl or self.rules.ttl
        job = Job(self.last_id, body, priority, self.now + delay + ttl if ttl else 0)
        self.jobs[job.id] = job
        self._wait(job, delay)
        return job.id

    def _make_room(self) -> bool:
        """What is leased does not count; to drop, only what is ready is there, if that is enough."""
        if sum(job.state == DELAYED for job in self.jobs.values()) >= self.rules.max_length:
            return False
        while sum(job.state != LEASED for job in self.jobs.values()) >= self.rules.max_length:
            oldest = min((job.id for job in self.jobs.values() if job.state == READY), default=0)
            if not self.rules.drop_oldest or not oldest:
                return False
            del self.jobs[oldest]
        return True

    def _wait(self, job: Job, delay: int) -> None:
        """Ready again, at once or later; what is over goes when it would be ready."""
        job.state, job.due = (DELAYED, self.now + delay) if delay else (READY, 0)
        if not delay and self._over(job):
            del self.jobs[job.id]

    def receive(self, limit: int, lease: int) -> list[Job]:
        """The jobs taken, as they are now."""
        if self.rules.paused == ALL:
            return []
        taken = self.ready()[:limit]
        for job in taken:
            job.state, job.due, job.attempt = LEASED, self.now + lease, job.attempt + 1
        return [replace(job) for job in taken]

    def _held(self, number: int, attempt: int) -> Job | None:
        """The job that this receipt still is good for."""
        job = self.jobs.get(number)
        return job if job and job.state == LEASED and job.attempt == attempt else None

    def ack(self, number: int, attempt: int) -> bool:
        if job := self._held(number, attempt):
            del self.jobs[job.id]
        return job is not None

    def extend(self, number: int, attempt: int, lease: int) -> bool:
        if job := self._held(number, attempt):
            job.due = self.now + lease
        return job is not None

    def nack(self, number: int, attempt: int, delay: int | None, reason: str) -> bool:
        if job := self._held(number, attempt):
            job.error = reason or job.error
            self._failed(job, delay, "rejected")
        return job is not None

    def _failed(self, job: Job, delay: int | None, why: str) -> None:
        """Again after a while, or to the dead letters when it was tried often enough."""
        rules = self.rules
        if rules.max_attempts and job.attempt >= rules.max_attempts:
            self._bury(job, why)
        elif self._over(job):
            del self.jobs[job.id]
        elif delay is None:
            wait = rules.backoff_first * rules.backoff_factor ** (job.attempt - 1)
            self._wait(job, min(wait, rules.backoff_max))
        else:
            self._wait(job, delay)

    def _bury(self, job: Job, why: str) -> None:
        del self.jobs[job.id]
        if not self._over(job):
            self.dead.append(Dead(job.body, job.id, why, job.attempt, job.error))

    def _over(self, job: Job) -> bool:
        return bool(job.expires) and job.expires <= self.now

    def advance(self, ms: int) -> None:
        """Time passes: delays end, leases end, messages expire unless somebody has them."""
        self.now += ms
        for job in sorted(self.jobs.values(), key=lambda job: job.due):
            if job.state == DELAYED and job.due <= self.now:
                self._wait(job, 0)
            elif job.state == LEASED and job.due <= self.now:
                self._failed(job, 0, "max_attempts")
        for job in list(self.jobs.values()):
            if job.state == READY and self._over(job):
                del self.jobs[job.id]

    def release(self, number: int) -> bool:
        """Ready at once, whoever has it; the attempt counts."""
        job = self.jobs.get(number)
        if job is None or job.state == READY:
            return False
        self._wait(job, 0)
        return True

    def delete(self, number: int) -> bool:
        return self.jobs.pop(number, None) is not None

    def purge(self) -> None:
        self.jobs.clear()

    def redrive(self, limit: int) -> int:
        """Back as new messages, oldest first."""
        moved, self.dead = self.dead[:limit], self.dead[limit:]
        for letter in moved:
            self.put(letter.body)
        return len(moved)

    def ready(self) -> list[Job]:
        """In the order in which they will be received."""
        waiting = [job for job in self.jobs.values() if job.state == READY]
        return sorted(waiting, key=lambda job: (-job.priority, job.id))
