"""Nouns: one file each, with tables, constraints and legal moves."""

from monitor.models.agents import Agent
from monitor.models.changes import StateChange, Subject
from monitor.models.commands import Command
from monitor.models.conversations import Conversation, Message
from monitor.models.executions import Execution
from monitor.models.jobs import JobHeartbeat
from monitor.models.keeping import GrowthSample, Keeping, RoomLevel, RoomState, WholeSince
from monitor.models.keys import ApiKey
from monitor.models.loops import Loop
from monitor.models.money import Budget, BudgetWindow, LedgerEntry, Price, Trip
from monitor.models.people import HumanAgent, Membership, Person
from monitor.models.projects import Project
from monitor.models.queue import EventCounter, QueueEvent, QueueItem
from monitor.models.rollups import DayRollup, DirtyHour, HourRollup, LifetimeTally, MinuteRollup, RolledDay
from monitor.models.spans import IngestKey, Run, RunQuarter, Span, SpanLog, Trace
from monitor.models.views import SavedView

__all__ = [
    "Agent",
    "ApiKey",
    "Budget",
    "BudgetWindow",
    "Command",
    "Conversation",
    "DayRollup",
    "DirtyHour",
    "EventCounter",
    "Execution",
    "GrowthSample",
    "HourRollup",
    "HumanAgent",
    "IngestKey",
    "JobHeartbeat",
    "Keeping",
    "LedgerEntry",
    "LifetimeTally",
    "Loop",
    "Membership",
    "Message",
    "MinuteRollup",
    "Person",
    "Price",
    "Project",
    "QueueEvent",
    "QueueItem",
    "RolledDay",
    "RoomLevel",
    "RoomState",
    "Run",
    "RunQuarter",
    "SavedView",
    "Span",
    "SpanLog",
    "StateChange",
    "Subject",
    "Trace",
    "Trip",
    "WholeSince",
]
