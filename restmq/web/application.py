"""The whole route table, and the application made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from restmq.rules.acl import Acl
from restmq.web.admin import Livez, Readyz
from restmq.web.comet import Comet
from restmq.web.commands import Commands, CommandsForAnyQueue
from restmq.web.dispatcher import Dispatcher, Rule
from restmq.web.pages import Jobs, Static
from restmq.web.rest import (
    Control,
    ControlAll,
    PolicyOf,
    Queue,
    Queues,
    Root,
    Stats,
    StatsAll,
)
from restmq.web.rse import Channel
from restmq.web.rse_health import RseHealth
from restmq.web.v1.bindings import Bindings, OneBinding
from restmq.web.v1.events import EventsOfTopics, TopicEvents
from restmq.web.v1.info import Info, WhoAmI
from restmq.web.v1.leases import Ack, Extend, Lease, Nack
from restmq.web.v1.messages import BatchOfMessages, Messages, OneMessage, Release
from restmq.web.v1.one_event import OneEvent
from restmq.web.v1.openapi import OpenApi
from restmq.web.v1.problems import ErrorPage
from restmq.web.v1.queue import OneQueue, Pause, Purge, QueueList, Redrive, Resume
from restmq.web.v1.receive import Receive
from restmq.web.v1.schedules import AllSchedules, OneSchedule, PauseSchedule, ResumeSchedule
from restmq.web.v1.settings import OneProfile, Profiles, Settings
from restmq.web.v1.socket import Socket
from restmq.web.v1.streams import ManyStreams, QueueStream, Sse
from restmq.web.websocket import WebSocket
from restmq.web.xmlrpc import XmlRpc

if TYPE_CHECKING:
    from restmq import settings as options
    from restmq.acl_file import AclFile
    from restmq.core.broker import Broker
    from restmq.web.endpoint import Endpoint


def _of_queue(rest: str, handler: type[Endpoint]) -> tuple[Rule, Rule]:
    """The two ways to a call for one queue: its name in the path, or (there it is empty) ``?queue=``."""
    return (rf"/v1/queues/(.+)/{rest}", handler), (rf"/v1/(){rest}", handler)


ROUTES: Final[tuple[Rule, ...]] = (
    # pattern, handler             access: p(roducer), c(onsumer), comet, w(ebsocket), none
    (r"/", Root),  #               GET c: pop ?queue=, or to the page; POST p: add
    (r"/q/", Queues),  #           GET c: list as a page; POST, DELETE p: of the queue ''
    (r"/q/(.+)", Queue),  #        GET c: pop; POST p: add; DELETE p: purge
    (r"/queue", CommandsForAnyQueue),  # POST p or c, by command; GET none: to the help
    (r"/queue/(.+)", Commands),  # POST p or c, by command
    (r"/c/(.*)", Comet),  #        GET comet: stream of a queue, or of ?topic=
    (r"/p/(.*)", PolicyOf),  #     GET c, POST p: broadcast or roundrobin
    (r"/control/", ControlAll),  # GET c: status of all; POST p: of the queue ''
    (r"/control/(.+)", Control),  # GET c: status; POST p: start or stop
    (r"/stats/", StatsAll),  #     GET c: numbers of all queues
    (r"/stats/(.+)", Stats),  #    GET c: numbers of one
    (r"/j/(.*)", Jobs),  #         GET c: page of one queue
    (r"/ws/(.*)", WebSocket),  #      GET w: push and echo
    (r"/sse/(.*)", Sse),  #        GET comet: stream
    (r"/e/health", RseHealth),  #  GET none
    (r"/e/(.*)", Channel),  #      GET c: read; p: post by JSONP; POST p. Both want a token
    (r"/v1/queues/(.+)/stream", QueueStream),  #     GET comet
    (r"/v1/profiles", Profiles),  #                  GET c
    (r"/v1/profiles/(.+)", OneProfile),  #           GET c, PUT DELETE p
    (r"/v1/info", Info),  #                          GET p or c
    (r"/v1/whoami", WhoAmI),  #                      GET none
    (r"/v1/stream", ManyStreams),  #                 GET comet: of several queues or topics
    *_of_queue(r"messages/([^/]+)/release", Release),  # POST p
    *_of_queue(r"messages/([^/]+)", OneMessage),  #      GET c, DELETE p
    *_of_queue("messages", Messages),  #             GET c: browse; POST p: put
    *_of_queue("batch", BatchOfMessages),  #         POST p
    *_of_queue("receive", Receive),  #               POST comet or c: under a lease
    *_of_queue("purge", Purge),  #                   POST p
    *_of_queue("pause", Pause),  #                   POST p
    *_of_queue("resume", Resume),  #                 POST p
    *_of_queue("redrive", Redrive),  #               POST p: of dead letters
    *_of_queue("settings", Settings),  #             GET c, PUT PATCH p
    (r"/v1/queues", QueueList),  #                   GET c
    (r"/v1/queues/(.+)", OneQueue),  #               GET c, PUT DELETE p
    (r"/v1/()queue", OneQueue),
    (r"/v1/topics/(.+)/events/([^/]+)", OneEvent),  # GET c: as a CloudEvent
    (r"/v1/topics/(.+)/events", TopicEvents),  #     POST p: publish
    (r"/v1/events", EventsOfTopics),  #              GET c: by cursor; POST p: publish many
    (r"/v1/bindings", Bindings),  #                  GET c
    (r"/v1/bindings/(.+)", OneBinding),  #           GET c, PUT DELETE p: events into queues
    (r"/v1/ws", Socket),  #        GET w or p, by command: a WebSocket
    (r"/errors/([a-z_]+)", ErrorPage),  #            GET none: a page for each error of /v1
    (r"/v1/ack", Ack),  #          POST comet or c
    (r"/v1/nack", Nack),  #        POST comet or c
    (r"/v1/schedules", AllSchedules),  #             GET c
    (r"/v1/schedules/(.+)/pause", PauseSchedule),  #         POST p
    (r"/v1/schedules/(.+)/resume", ResumeSchedule),  #       POST p
    (r"/v1/schedules/(.+)", OneSchedule),  #         GET c, PUT DELETE p
    (r"/v1/extend", Extend),  #    POST comet or c
    (r"/v1/leases/(.+)", Lease),  #                  DELETE comet or c: ack of one
    (r"/xmlrpc", XmlRpc),  #       POST p or c, by method
    (r"/static/(.*)", Static),  #  GET none
    (r"/openapi\.json", OpenApi),  # GET none: all of /v1, for programs
    (r"/livez", Livez),  #         GET none
    (r"/readyz", Readyz),  #       GET none
    (r"/health", Readyz),  #       GET none
)
"""Every path there is; any other is 404. The first segment is literal: it picks the pattern."""


def make_application(
    settings: options.Settings, broker: Broker, access: AclFile | Acl, more: tuple[Rule, ...] = ()
) -> Dispatcher:
    """The application for these settings; it follows the access file (an Acl stays as it is).

    ``more`` are the routes that another daemon has besides ROUTES.
    """
    acl = access if isinstance(access, Acl) else access.acl
    application = Dispatcher(
        (*ROUTES, *more), broker=broker, config=settings, acl=acl, clock=broker.clock
    )
    if not isinstance(access, Acl):
        access.subscribe(lambda acl: setattr(application, "acl", acl))
    return application
