"""What is ill about the instance, and what that means for those who rely on it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings

from dashboard import words
from dashboard.growth import TONES
from monitor import jobs, listening, room, vitals
from monitor.models import JobHeartbeat, RoomLevel
from monitor.pipeline import Statement
from monitor.room import Room
from monitor.together import Together

LATE = timedelta(seconds=60)
MEMORY_AMBER = 0.92
CONNECTIONS_AMBER = 0.8
# Twice as much to do as there are cores.
LOAD_AMBER = 2.0
# Kinds of processes that run beside the web: what they are, and what it means when none of a kind does.
KINDS = {
    "worker": ("Worker", "Periodic jobs wait for the web processes, which turn the crank every few seconds."),
    "beat": ("Beat, the clock of the jobs", "The web processes turn the crank after 15 s, so jobs run a little late."),
}
BACKUP = "backup.write"
# What each job does, and what goes unseen without it.
JOBS = {
    "watch.overdue": ("Finds silent executions", "A silent agent is not noticed and not retried."),
    "silence.look": ("Watches what only traces tell of", "One that nothing more comes of is not told of."),
    "loops.look": ("Looks for agents that loop", "An agent that repeats itself is not told of, and goes on spending."),
    "cadence.judge": ("Misses agents that stay away", "An agent that is expected and does not come is not missed."),
    "clocks.breaches": ("Watches the clock for claiming", "Nobody is told when a customer waits too long."),
    "clocks.unanswered": ("Gives unanswered chats back", "A chat whose holder is silent stays with them."),
    "renewals.close_over": ("Closes trips whose time is over", "They stay in the queue, though nothing is refused."),
    "people.presence": ("Sets absent people to away", "Work may be given to people who have left."),
    "room.look": ("Watches the room that is left", "Nobody is told when the disk fills up. Doors shut all the same."),
    "growth.sample": ("Notes how data grows", "The forecast of when the disk is full stands still."),
    "jobs.silence": ("Watches these jobs", "A job that stops is not told by an alert."),
    "alerts.judge": ("Turns events into alerts", "New alerts are not raised. Events are kept and judged later."),
    "alerts.settle_over": ("Ends alerts whose trouble is over", "They stay open, and the next one is not told anew."),
    "alerts.escalate": ("Escalates and wakes alerts", "Warnings do not become critical, snoozed ones sleep on."),
    "alerts.deliver": ("Sends notifications", "Nobody is notified. What is planned is kept and sent later."),
    "rollups.close_hours": ("Sums the hours and days", "Charts read from minutes and get slower, figures stay right."),
    "retention.make_partitions": ("Makes room for coming days", "In a week nothing more can be stored."),
    "retention.drop_partitions": ("Drops old days", "The database keeps growing."),
    "retention.prune": ("Prunes small tables", "The database keeps growing."),
    "alerts.prune": ("Prunes old alerts", "The database keeps growing."),
    BACKUP: ("Makes backups", "What happens from now on is lost if the disk is."),
    listening.EARS: ("Hears the agents", "Heartbeats do not arrive, and nobody is accused of silence meanwhile."),
}

# Notifications that are due and not out yet, over all projects, and since when the oldest is.
UNDELIVERED = "SELECT count(*), min(due_at) FROM alerts_delivery WHERE status IN ('pending', 'sending')"


@dataclass(frozen=True)
class Ill:
    """One thing that is not well: what, what it means, what to do."""

    strong: str
    means: str
    do: str
    tone: str = "red"


@dataclass(frozen=True)
class Job:
    """A periodic job or a process with its last signs of life."""

    name: str
    does: str
    look: str
    word: str
    last_ok_at: datetime | None
    took_ms: int | None
    every_s: float
    runs: int
    error: str
    node: str


@dataclass(frozen=True)
class Health:
    """All of it at one moment. `room` is the database's, by which doors are shut; None where nobody sees it."""

    ills: list[Ill]
    jobs: list[Job]
    processes: list[Job]
    database: vitals.DatabaseVitals
    redis: vitals.RedisVitals
    machine: vitals.Machine
    room: Room | None
    room_level: RoomLevel
    intake: vitals.Intake
    backs_up: bool
    undelivered: int
    undelivered_since: datetime | None
    unjudged: int
    unjudged_since: datetime | None

    @property
    def sentence(self) -> str:
        if not self.ills:
            return "Everything runs on time."
        return self.ills[0].strong if len(self.ills) == 1 else f"{len(self.ills)} things are ill."

    @property
    def last_at(self) -> datetime | None:
        return max((one.last_ok_at for one in self.jobs if one.last_ok_at), default=None)

    @property
    def backup_at(self) -> datetime | None:
        """When the last backup by schedule was finished."""
        return next((one.last_ok_at for one in self.jobs if one.name == BACKUP), None)

    @property
    def room_tone(self) -> str:
        return TONES[self.room_level]

    @property
    def workers(self) -> int:
        return sum(one.name.startswith("worker") and one.look == "on_time" for one in self.processes)


def look(*, now: datetime, whole_errors: bool) -> Health:
    """How everything is; errors are shown whole only to whoever runs the instance, for they may quote rows."""
    with Together(across=True) as asked:
        signs = asked.rows(JobHeartbeat.objects.order_by("name"))
        intake = vitals.asking_intake(asked, now=now)
        backlogs = [asked.ask(Statement(backlog, {}), list) for backlog in (UNDELIVERED, vitals.UNJUDGED)]
    ((undelivered, undelivered_since),), ((unjudged, unjudged_since),) = backlogs
    rows = [row for row in signs if row.name != jobs.CRANK]
    silent = {row.name for row in jobs.silent_of(signs, now=now)}
    told = [_job(row, row.name in silent, whole_errors=whole_errors) for row in rows]
    processes = [job for job, row in zip(told, rows, strict=True) if not jobs.is_periodic(row)]
    periodic = [job for job, row in zip(told, rows, strict=True) if jobs.is_periodic(row)]
    database, redis, machine, measured = vitals.database(), vitals.redis(), vitals.machine(), room.measure()
    level = room.level_now(measured.share) if measured else RoomLevel.ROOMY
    ills = [
        *_of_jobs(periodic, now=now),
        *_of_processes(processes),
        *_of_room(measured, level, machine.disk),
        *_of_stores(database, redis, machine),
        *_of_backlogs(undelivered_since, unjudged_since, now=now),
    ]
    return Health(
        ills=sorted(ills, key=lambda one: one.tone != "red"),
        jobs=periodic,
        processes=processes,
        database=database,
        redis=redis,
        machine=machine,
        room=measured,
        room_level=level,
        intake=intake[0],
        backs_up=settings.BACKUP_DIR is not None,
        undelivered=undelivered,
        undelivered_since=undelivered_since,
        unjudged=unjudged,
        unjudged_since=unjudged_since,
    )


def _job(row: JobHeartbeat, is_silent: bool, *, whole_errors: bool) -> Job:
    name = row.name.removeprefix(jobs.PROCESS)
    kind = name.partition("@")[0]
    is_failing = bool(row.error)
    if is_silent:
        look, word = "silent", "Silent" if row.last_ok_at else "Never ran"
    elif is_failing:
        look, word = "failing", "Fails"
    elif row.last_ok_at is None:
        look, word = "pending", "Not yet"
    else:
        look, word = "on_time", "On time"
    return Job(
        name=name if name != listening.EARS else "web",
        does=JOBS.get(row.name, KINDS.get(kind, ("", "")))[0],
        look=look,
        word=word,
        last_ok_at=row.last_ok_at,
        took_ms=row.took_ms,
        every_s=row.every_s,
        runs=row.runs,
        error=row.error if whole_errors else row.error.partition(":")[0],
        node=row.node,
    )


def _of_jobs(periodic: list[Job], *, now: datetime) -> list[Ill]:
    found = []
    for job in periodic:
        means = JOBS.get(job.name, ("", "What it does is not done."))[1]
        if job.look == "silent":
            ran = f"has not run for {words.rough(now - job.last_ok_at)}" if job.last_ok_at else "has never run"
            why = f" Its last error: {job.error}." if job.error else ""
            do = f"See that a worker runs, or turn the crank by hand: manage.py tick.{why}"
            found.append(Ill(f"The job {job.name} {ran}.", means, do))
        elif job.look == "failing":
            do = f"Its log says more. The error: {job.error}"
            found.append(Ill(f"The job {job.name} fails.", means, do, "amber"))
    if not periodic:
        found.append(Ill("No job has run yet.", "Nothing is watched.", "Start a worker and beat: handrail up."))
    return found


def _of_processes(processes: list[Job]) -> list[Ill]:
    found = []
    for kind, (title, means) in KINDS.items():
        own = [job for job in processes if job.name.partition("@")[0] == kind]
        name = title.partition(",")[0]
        if not own:
            found.append(Ill(f"{name} is not running.", means, f"Start a {kind} process.", "amber"))
        elif all(job.look == "silent" for job in own):
            found.append(Ill(f"{name} is silent.", means, f"Look at its log and start the {kind} again."))
    ears = next((job for job in processes if job.name == "web"), None)
    if ears is not None and ears.look == "silent":
        found.append(Ill("No web process hears the agents.", JOBS[listening.EARS][1], "Start the web again."))
    return found


def _of_stores(database: vitals.DatabaseVitals, redis: vitals.RedisVitals, machine: vitals.Machine) -> list[Ill]:
    found = []
    if redis.error:
        means = "Pages look every few seconds instead of hearing at once, and workers rest. Alerts still go out."
        found.append(Ill("Redis does not answer.", means, f"Start it again. It said {redis.error}.", "amber"))
    if machine.load_share >= LOAD_AMBER:
        strong = f"The machine has more to do than it can: load {machine.load:.1f} on {machine.cores} cores."
        found.append(Ill(strong, "Pages and jobs are slower.", "See what runs beside Handrail, or add cores.", "amber"))
    if machine.memory_share >= MEMORY_AMBER:
        full = words.percent(machine.memory_share)
        means = "The system may end one of the processes; it is started again."
        found.append(Ill(f"The memory is {full} full.", means, "Give the machine more, or run fewer workers.", "amber"))
    if database.connections >= CONNECTIONS_AMBER * database.most_connections:
        used = f"{database.connections} of {database.most_connections}"
        means = "At the limit new requests are refused."
        found.append(Ill(f"{used} database connections are used.", means, "Raise max_connections.", "amber"))
    return found


def _of_room(measured: Room | None, level: RoomLevel, own: Room | None) -> list[Ill]:
    """The room of the database; where nobody sees that, the disk of this machine, on which no door depends."""
    seen = measured or own
    if seen is None or (level if measured else room.level(seen.share)) == RoomLevel.ROOMY:
        return []
    strong = f"The {seen.name if measured else 'disk of this machine'} is {words.percent(seen.share)} full."
    if measured is None:
        means = "When it is full, what is written here fails. How full the database’s own disk is, nobody sees."
        do = "Make room, and say in HANDRAIL_DB_MAX_BYTES how large the database may become."
        return [Ill(strong, means, do, "red" if seen.share >= settings.DISK_STOP else "amber")]
    do = "Make room, or keep things for fewer days."
    if level != RoomLevel.STOPPED:
        means = "When it is full the database stops, and nothing more is stored or watched."
        return [Ill(strong, means, do, "amber")]
    means = "Agents’ new work is refused; heartbeats, ends and people still come through."
    return [Ill(strong, means, do)]


def _of_backlogs(undelivered: datetime | None, unjudged: datetime | None, *, now: datetime) -> list[Ill]:
    found = []
    if undelivered and now - undelivered > LATE:
        strong = f"A notification has been due for {words.rough(now - undelivered)}."
        found.append(Ill(strong, "Somebody who should know does not.", "See the channels, and the job alerts.deliver."))
    if unjudged and now - unjudged > LATE:
        strong = f"An event has waited {words.rough(now - unjudged)} to be judged."
        found.append(Ill(strong, "It may become an alert, late.", "See the job alerts.judge."))
    return found
